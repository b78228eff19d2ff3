"""A server that costs as little as can be: it reads what is PUT, throws it away and answers as the service does.

Arguments: a PEM file with key and certificate, for TLS. It prints where it listens, and ends with its standard input.
"""

import json
import socket
import ssl
import sys
import threading
import uuid

READ_BYTES = 1 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def main() -> None:
    """Listen on loopback, a thread a connection."""
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[1])
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(f"{'https' if tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_accept, args=(listening, tls), daemon=True).start()
    sys.stdin.read()


def _accept(listening: socket.socket, tls: ssl.SSLContext | None) -> None:
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_talk, args=(connection, tls), daemon=True).start()


def _talk(connection: socket.socket, tls: ssl.SSLContext | None) -> None:
    try:
        with tls.wrap_socket(connection, server_side=True) if tls else connection as stream:
            buffer = memoryview(bytearray(READ_BYTES))
            while _exchange(stream, buffer):
                pass
    except OSError:
        return  # the client went away


def _exchange(stream: socket.socket, buffer: memoryview) -> bool:
    """Take one request and answer it; False where there is none any more."""
    head, found, body = _head(stream)
    if not found:
        return False
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if fields.get(b"expect") == b"100-continue":
        stream.sendall(CONTINUE)
    left = int(fields.get(b"content-length", b"0")) - len(body)
    while left > 0:
        count = stream.recv_into(buffer, min(len(buffer), left))
        if not count:
            return False
        left -= count
    stream.sendall(_answer(head))
    return True


def _head(stream: socket.socket) -> tuple[bytes, bytes, bytes]:
    """The head, the empty line that ends it (empty where the client left), and what came of the body with it."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = stream.recv(1 << 16)
        if not piece:
            break
        read += piece
    return read.partition(b"\r\n\r\n")


def _answer(head: bytes) -> bytes:
    method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
    name = target.partition(b"?")[0].rpartition(b"/")[2].decode()
    said = {"conversationId": name, "jobId": str(uuid.uuid4())}
    if method == b"GET":
        said = {"id": name, "status": "completed"}
    body = json.dumps(said).encode()
    status = b"201 Created" if method == b"PUT" else b"200 OK"
    fields = b"Content-Type: application/json\r\nContent-Length: %d" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n\r\n" + body


if __name__ == "__main__":
    main()
