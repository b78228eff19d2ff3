"""A manifest may be a pipe: it is copied before it is read; one that nobody writes to is refused, not waited for."""

import os
import threading
from pathlib import Path

import pytest

from uploader.errors import UsageError
from uploader.manifest.files import lines
from uploader.run.preparing import manifest_file
from uploader.settings import Settings

CONTENT = b"conversationId,audioPath\n1,a.wav\n"
CSV = Settings(format="csv")


def read_twice(name: str, settings: Settings = CSV) -> tuple[bytes, bytes, bool]:
    """Read a manifest twice; return both contents, and whether it came from a pipe."""
    with manifest_file(name, settings) as file:
        return file.path.read_bytes(), file.path.read_bytes(), file.is_piped


def test_an_unnamed_pipe_is_read_as_a_file() -> None:
    """As `run <(command)` gives one: the copy can be read as often as it takes."""
    read, write = os.pipe()
    os.write(write, CONTENT)
    os.close(write)
    assert read_twice(f"/dev/fd/{read}") == (CONTENT, CONTENT, True)
    os.close(read)


def test_a_pipe_whose_writer_takes_its_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe with a writer is waited for, however long the writer takes."""
    monkeypatch.setattr("uploader.pipes.PIPE_SECONDS", 0.01)
    read, write = os.pipe()
    has_waited = threading.Event()
    set_blocking = os.set_blocking

    def wait_no_longer(descriptor: int, blocking: bool, /) -> None:
        has_waited.set()
        set_blocking(descriptor, blocking)

    def write_late() -> None:
        has_waited.wait()
        os.write(write, CONTENT)
        os.close(write)

    monkeypatch.setattr("os.set_blocking", wait_no_longer)
    writer = threading.Thread(target=write_late)
    writer.start()
    assert read_twice(f"/dev/fd/{read}") == (CONTENT, CONTENT, True)
    writer.join()
    os.close(read)


def test_a_named_pipe_is_read_by_its_ending(tmp_path: Path) -> None:
    """A FIFO has a name, and so a format; its writer may come a moment later."""
    path = tmp_path / "m.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(CONTENT))
    writer.start()
    assert read_twice(str(path), Settings()) == (CONTENT, CONTENT, True)
    writer.join()


def test_a_named_pipe_that_nobody_writes_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own name: it does not hang, and it is not said to be empty."""
    monkeypatch.setattr("uploader.pipes.PIPE_SECONDS", 0.01)
    path = tmp_path / "m.csv"
    os.mkfifo(path)
    with pytest.raises(UsageError, match=rf"manifest {path}: this is a pipe, and nobody writes to it"):
        read_twice(str(path), Settings())


def test_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan - <&-`: there is nothing to read from."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="manifest -: standard input is closed"):
        read_twice("-")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file that cannot be read")
def test_a_manifest_that_cannot_be_read_is_to_blame_itself() -> None:
    """An error of the disk is told of the manifest, and not of a stream that the uploader writes."""
    with pytest.raises(UsageError, match="manifest m: Input/output error: name a file that can be read"):
        list(lines(Path("/proc/self/mem"), "m"))


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_refused(name: str) -> None:
    """It has no end, or nothing in it."""
    with pytest.raises(UsageError, match=f"manifest {name}: this is neither a file nor a pipe"):
        read_twice(name)
