"""Fixtures that several tests of the client share."""

import ssl
from pathlib import Path

import pytest

from tests.integration.servers import authority


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls_context(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext | None:
    """Provide no context for a server, and one of an authority that the client is told to trust."""
    if not request.param:
        return None
    trusted = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.bundle))
    return trusted.tls()
