"""What several unit tests stand on."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def bare_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a folder with an empty secrets folder in it, and an environment without this machine's settings."""
    for name in os.environ:
        if name.upper().startswith("UPLOADER_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("UPLOADER_SECRETS_DIR", str(tmp_path / "secrets"))
    return tmp_path
