"""One real edge at a time."""
