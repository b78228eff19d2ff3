"""``python -m uploader.serve.health``: the health check of a container; 0 where /healthz answers, else 1."""

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException

from uploader.settings import host_and_port

VARIABLE = "UPLOADER_STATUS"
SECONDS = 5.0
# an address of every interface is reached as this machine
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is not bound


def is_healthy(environment: Mapping[str, str]) -> bool:
    """Return True where the process that listens on the address in ``UPLOADER_STATUS`` answers, or none is set."""
    address = environment.get(VARIABLE)
    if not address:
        return True  # a run without a status page has no health to ask for
    try:
        host, port = host_and_port(address)
        with closing(HTTPConnection(LOCAL.get(host, host), port, timeout=SECONDS)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
    except (OSError, HTTPException, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(not is_healthy(os.environ))
