"""Servers of recordings on loopback: a web server that misbehaves as it is told, and a store that speaks S3."""

import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
START_SECONDS = 60.0
BUCKET = "recordings"


@dataclass
class Served:
    """A file of a web server, and how it is served."""

    content: bytes
    status: int = 200
    ranges: bool = True
    sized: bool = True
    # the version: an ETag, or else a time of modification
    etag: bool = True
    dated: bool = True
    # If-Match is heeded
    guards: bool = True
    # the connection ends after so many bytes of a whole file
    cut_after: int | None = None
    # where it is cut, the connection stays open until then
    stalled: threading.Event | None = None
    # the answers before this file's own one
    first: list[int] = field(default_factory=list)
    location: str = ""
    packed: bool = False
    # the answers after the first request
    then_first: list[int] = field(default_factory=list)
    # requests after the first one wait for it
    held: threading.Event | None = None
    # its content from the second request on
    then: bytes | None = None


class WebServer:
    """A web server in a thread; it keeps a list of the requests for each path."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        # each answer comes so much later
        self.away_seconds = 0.0
        # so many requests are let in together, where it is set
        self.together: threading.Barrier | None = None
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def address(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of a file."""
        return f"{self._scheme}://{host}:{self._server.server_port}/{path}"

    def serve(self, path: str, content: bytes, **how: Any) -> str:
        """Serve a file; return its address."""
        self.files[path] = Served(content, **how)
        return self.address(path)

    def asked(self, path: str) -> list[Mapping[str, str]]:
        """Return the headers of the requests for a file."""
        return [headers for asked, headers in self.requests if asked == path]

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a client that hung up: it has read enough."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # what it was given


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ClassVar[WebServer]

    def do_GET(self) -> None:
        """Answer as the file says."""
        owner = self.server_of
        path = self.path[1:].partition("?")[0]
        owner.requests.append((path, dict(self.headers)))
        if owner.away_seconds:
            time.sleep(owner.away_seconds)
        if owner.together is not None:
            owner.together.wait()
        file = owner.files.get(path, Served(b"", status=404))
        if file.held is not None and len(owner.asked(path)) > 1:
            file.held.wait()
        status = file.first.pop(0) if file.first else file.status
        self._answer(file, status)
        if file.then is not None:
            file.content, file.then = file.then, None
        file.first, file.then_first = [*file.first, *file.then_first], []

    def do_CONNECT(self) -> None:
        """Refuse, as a proxy that asks for a login."""
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, file: Served, status: int) -> None:
        fields = {"ETag": f'"{hashlib.sha256(file.content).hexdigest()[:16]}"'} if file.etag else {}
        if file.dated:
            fields["Last-Modified"] = formatdate(len(file.content), usegmt=True)
        if file.packed:
            fields["Content-Encoding"] = "gzip"
        wanted = self.headers.get("If-Match")
        body, asked = file.content, _RANGE.fullmatch(self.headers.get("Range", ""))
        if status == 200 and file.guards and wanted not in (None, fields.get("ETag")):
            status = 412
        elif status == 200 and asked is not None and file.ranges:
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(body))
            status = 206 if start < end else 416
            fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}" if start < end else f"bytes */{len(body)}"
            body = body[start:end]
        if status in (301, 302, 307):
            fields["Location"] = file.location
        self._send(file, status, fields, body if status in (200, 206) else b"trouble")

    def _send(self, file: Served, status: int, fields: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if file.sized:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        cut = file.cut_after if status == 200 and file.cut_after is not None else len(body)
        try:
            self.wfile.write(body[:cut])
        except OSError:
            return  # who has read enough hangs up
        if cut < len(body):
            self.close_connection = True
            if file.stalled is not None:
                file.stalled.wait()


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A store that speaks S3, in a process of its own."""

    environment: Mapping[str, str]

    def put(self, key: str, content: bytes) -> str:
        """Store an object; return its address."""
        import obstore  # noqa: PLC0415 - an extra's
        from obstore.store import S3Store  # noqa: PLC0415 - as above

        store = S3Store(
            BUCKET,
            endpoint=self.environment["AWS_ENDPOINT_URL"],
            access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region=self.environment["AWS_REGION"],
            client_options={"allow_http": True},
        )
        obstore.put(store, key, content)
        return f"s3://{BUCKET}/{key}"


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run moto's server of S3 with one bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("-c", "import sys; from moto.server import main; main(sys.argv[1:])", "-H", "127.0.0.1", "-p", str(port))
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-W", "ignore", *words], stdout=log, stderr=log)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "recordings-key",
        "AWS_SECRET_ACCESS_KEY": "recordings-secret-of-the-tests",
        "AWS_REGION": "us-east-1",
    }
    try:
        _make_bucket(port, BUCKET, process)
        yield ObjectStore(environment)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()


def _make_bucket(port: int, bucket: str, process: "subprocess.Popen[bytes]") -> None:
    """Make the bucket as soon as the server listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        try:
            signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
            connection.request("PUT", f"/{bucket}", headers=signed)
            assert connection.getresponse().status == 200
        except ConnectionRefusedError:
            assert process.poll() is None, "the store did not start"
            assert time.monotonic() < deadline, "the store does not listen"
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()
