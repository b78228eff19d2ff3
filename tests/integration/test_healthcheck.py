"""The image's health check tells a service that answers from one that does not."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.remote_servers import WebServer

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8")


def checked(status: str | None) -> int:
    """Run the check's own words with this address of a status page; return its exit code."""
    (words,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)
    program, *rest = json.loads(words)
    assert program == "python"
    environment = {} if status is None else {"UPLOADER_STATUS": status}
    # a proxy is no way to the container itself
    environment |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, *rest], env=environment, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_page_that_answers_is_healthy(status: int, code: int) -> None:
    """By its own status, and never by a proxy's."""
    with WebServer() as server:
        address = server.serve("healthz", b"ok", status=status)
        port = re.findall(r":(\d+)/", address)[0]
        assert checked(f"0.0.0.0:{port}") == code
        assert len(server.asked("healthz")) == 1


def test_where_nothing_is_served_nothing_is_wrong() -> None:
    """A night's run without a status page is healthy; a page that should be there and is not makes it unhealthy."""
    assert checked(None) == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        assert checked(f"0.0.0.0:{taken.getsockname()[1]}") == 1
