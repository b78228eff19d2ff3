"""Appends audio files to conversations from a manifest: at most once, in order, with the account full."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uploader.run.batch import run_batch

__version__ = "0.1.0"
__all__ = ["run_batch"]


def __getattr__(name: str) -> Any:
    """Import what a program calls once it asks for it: `uploader --help` has no use for it."""
    if name == "run_batch":
        from uploader.run.batch import run_batch  # noqa: PLC0415 - as just said

        return run_batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
