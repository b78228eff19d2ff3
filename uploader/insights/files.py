"""The files of insights: one a conversation, written whole, readable by their owner alone."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uploader.errors import FolderBusyError, ResultsUnavailableError, UsageError
from uploader.policy.insights import Kept
from uploader.results import replacing

OWNER_ALONE = 0o600
# the suffix of a file that is still being written
UNFINISHED = ".uploader-insights"


@contextmanager
def folder_for_insights(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and lock it for this command.

    Raises:
        UsageError: The folder cannot be made or written to.
        FolderBusyError: Another command holds it.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"insights {folder}: no such folder can be had ({error.strerror}): name another") from error
    try:
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise UsageError(f"insights {folder}: this folder is not writable: make it so or name another")
        if _is_locked(folder, descriptor):
            _sweep(folder)
        yield
    finally:
        os.close(descriptor)


def read(path: Path, service: str, conversation_id: str) -> Mapping[str, Any] | None:
    """Read the file of a conversation; None where there is none.

    Raises:
        UsageError: The file is not of this conversation of this service, and is not to be replaced.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"insights {path}: {error.strerror}: give leave to read it, or name another folder") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or (content.get("service"), content.get("conversationId")) != (
        service,
        conversation_id,
    ):
        raise UsageError(
            f"insights {path}: this file was not written by the uploader for this conversation of {service}: move it "
            "away, or name another folder"
        )
    return content


def kept(content: Mapping[str, Any] | None) -> Kept | None:
    """Read a file's record of its own content; None where there is none, or an edit broke it."""
    sections = [(content or {}).get(name) for name in ("completed", "parts", "errors")]
    if not all(isinstance(member, dict) for member in sections):
        return None
    completed, parts, _ = sections
    return Kept(completed or {}, frozenset(parts or ()))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file of a conversation atomically, a member a line.

    Raises:
        ResultsUnavailableError: The file cannot be written now.
    """
    lines = ",\n".join(f"{_json(name)}: {_json(value)}" for name, value in content.items())
    try:
        with replacing(path, OWNER_ALONE, UNFINISHED) as file:
            file.write(f"{{\n{lines}\n}}\n")
    except OSError as error:
        raise ResultsUnavailableError(
            f"insights {path}: it could not be written ({error.strerror}): make room or give leave, then run the same "
            "command again: it goes on"
        ) from error


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # half a character, which JSON can say and UTF-8 cannot, stays as the service escaped it
    return text if text.isascii() or _is_whole(text) else json.dumps(value)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_locked(folder: Path, descriptor: int) -> bool:
    """Lock the folder; return False where its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderBusyError(
            f"insights {folder}: another `uploader insights` writes there: wait for its end, or name another folder"
        ) from error
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove unfinished files of a killed command, which may hold a transcript."""
    for path in folder.glob(f".*.json.*{UNFINISHED}"):
        path.unlink(missing_ok=True)
