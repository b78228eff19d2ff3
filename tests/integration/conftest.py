"""Fixtures that several tests of the client, or of the ledger, share."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.servers import authority

if TYPE_CHECKING:
    from tests.integration.test_ledger import Book


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


@pytest.fixture
def book(tmp_path: Path, database_url: str) -> Iterator["Book"]:
    """Provide a new ledger on each database, open for a run."""
    from tests.integration.test_ledger import opened  # noqa: PLC0415 - tests of the client have no use for it

    with opened(tmp_path, database_url) as made:
        yield made
