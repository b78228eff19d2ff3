"""Appends audio files to conversations from a manifest: at most once, in order, with the account full."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uploader.errors import ExitCode, UploaderError
    from uploader.run.batch import load_settings, run_batch
    from uploader.run.stopping import Stop
    from uploader.settings import Secret, Settings
    from uploader.status.summary import Summary

__version__ = "0.1.0"
__all__ = ["ExitCode", "Secret", "Settings", "Stop", "Summary", "UploaderError", "load_settings", "run_batch"]

_MODULES = {
    "ExitCode": "uploader.errors",
    "Secret": "uploader.settings",
    "Settings": "uploader.settings",
    "Stop": "uploader.run.stopping",
    "Summary": "uploader.status.summary",
    "UploaderError": "uploader.errors",
    "load_settings": "uploader.run.batch",
    "run_batch": "uploader.run.batch",
}


def __getattr__(name: str) -> Any:
    """Import a part of the interface once a program asks for it: `uploader --help` has no use for it."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
