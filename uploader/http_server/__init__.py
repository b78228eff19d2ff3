"""An HTTP server with limits on time, size and connections, for callbacks and for the status page."""

from uploader.http_server.connections import Connections
from uploader.http_server.server import Answer, Callers, HttpServer

__all__ = ["Answer", "Callers", "Connections", "HttpServer"]
