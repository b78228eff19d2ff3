"""The real command as a subprocess, judged by the journal of the server."""
