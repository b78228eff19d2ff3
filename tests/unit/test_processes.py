"""A worker's process is taken for dead only where it is known to be: the living are never ended by a guess."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from uploader.ledger import processes
from uploader.ledger.processes import is_dead, own_process

pytestmark = pytest.mark.skipif(not own_process(), reason="there is no /proc here")


def name_of(pid: int) -> str:
    """Return this process's name with another process's id and start."""
    return f"{own_process().rpartition(' ')[0]} {pid}:{processes._begun(pid)}"


def test_the_living_are_not_dead_and_the_dead_are() -> None:
    """This process lives; one that has ended is dead, as one is that has the id of another."""
    assert not is_dead(own_process())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = name_of(child.pid)
        assert not is_dead(name)
        child.kill()
    assert is_dead(name)
    assert is_dead(f"{name.rpartition(' ')[0]} {os.getpid()}:1"), "another process has its id by now"


def test_what_cannot_be_looked_at_is_not_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where /proc hides the processes of others, or cannot be read, nobody is taken for dead."""
    name = own_process()
    hidden = tmp_path / "proc"
    (hidden / "sys/kernel/random").mkdir(parents=True)
    (hidden / "self/ns").mkdir(parents=True)
    (hidden / "sys/kernel/random/boot_id").write_text(Path("/proc/sys/kernel/random/boot_id").read_text())
    (hidden / "self/ns/pid").symlink_to("/proc/self/ns/pid")
    monkeypatch.setattr(processes, "_PROC", hidden)
    assert not is_dead(name), "hidden"
    monkeypatch.setattr(processes, "_begun", refuse)
    assert not is_dead(name), "not to be read"


def refuse(pid: int) -> str:
    """Refuse to read a process."""
    raise PermissionError(pid)


def test_of_other_hosts_and_namespaces_nothing_is_known() -> None:
    """A name of another boot or namespace, or none, is not dead."""
    assert not is_dead("")
    assert not is_dead("another-boot:1 1:1")
