"""Slips of operation with the ledger: each is noticed before a night is appended twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended, check_interrupted
from tests.acceptance.place import Place, Server, until

ROOT = Path(__file__).parents[2]

NEW = "a new ledger: nothing is known of earlier nights"
# a shell script that starts a command as a container runtime would: its root is an overlay, thrown away after it
CONTAINER = """
set -e
top=$1; shift
mount -t tmpfs tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
for seen in /proc /dev $SEEN; do mkdir -p "$top/root$seen"; mount --rbind "$seen" "$top/root$seen"; done
mkdir "$top/root/state-of-uploader"
if [ -n "$STATE" ]; then mount --bind "$STATE" "$top/root/state-of-uploader"; fi
exec chroot "$top/root" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
"""

LEDGER = ("--ledger", "sqlite:////state-of-uploader/ledger.db")


@pytest.fixture
def container(place: Place) -> tuple[str, ...]:
    """The words of a command that starts another in a container; STATE in its environment is mounted there."""
    place.path("container").mkdir()
    place.environment["SEEN"] = " ".join(dict.fromkeys(map(str, (sys.prefix, sys.base_prefix, ROOT, place.folder))))
    place.environment["UPLOADER_NEW_LEDGER"] = "false"
    words = ("unshare", "--mount", "sh", "-c", CONTAINER, "sh", str(place.path("container")))
    tried = subprocess.run([*words, "true"], env=place.environment, cwd=place.folder, capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no container can be put together here: {tried.stderr.decode().strip()}")
    return words


def test_a_container_without_a_mounted_state_sends_nothing(
    place: Place, server: Server, container: tuple[str, ...]
) -> None:
    """Its ledger would go with it: exit 2 before anything is sent, with how to mount one; asked for, it is made."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    refused = place.run("run", "m.csv", *LEDGER, before=container)
    assert refused.code == 2
    assert "the container's own file system" in refused.err
    assert "--volume" in refused.err
    assert server.journal.begun_puts() == []
    results = place.write(
        "r.csv",
        "conversationId,audioPath,jobId,status,attempts,httpStatus,error,bytes,durationSeconds,"
        "channels,billedSeconds,acceptedAt,finishedAt,batch,line\n",
    )
    adopted = place.run("ledger", "adopt", results, *LEDGER, before=container)
    assert (adopted.code, "the container's own file system" in adopted.err) == (2, True)
    assert place.run("run", "m.csv", *LEDGER, "--new-ledger", before=container).code == 0
    check_appended(server.journal, rows)


def test_a_container_with_a_mounted_state_knows_the_earlier_nights(
    place: Place, server: Server, container: tuple[str, ...]
) -> None:
    """A mounted folder is right, and outlives the container: the second one sends nothing again."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    place.path("volume").mkdir()
    mounted = {"STATE": str(place.path("volume"))}
    for _ in range(2):
        assert place.run("run", "m.csv", *LEDGER, before=container, environment=mounted).code == 0
    check_appended(server.journal, rows)


def test_a_ledger_that_is_made_is_said(place: Place, server: Server) -> None:
    """The first night's log and summary say so, and the second night's say nothing of it."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    first, second = place.run("run", "m.csv"), place.run("run", "m.csv")
    assert NEW in first.out
    assert len(first.events("ledger.made")) == 1
    assert (NEW in second.out, second.events("ledger.made")) == (False, [])
    place.ledger.unlink()
    place.path("m.results.csv").unlink()
    assert place.run("run", "m.csv", "--json").summary["newLedger"] is True


def test_a_ledger_that_must_exist_is_not_made(place: Place, server: Server) -> None:
    """A missing ledger ends the run with 2 before anything is sent; an existing one is used as always."""
    write_manifest(place, "m.csv", make_rows(place, 2, 1))
    refused = place.run("run", "m.csv", environment={"UPLOADER_LEDGER_MUST_EXIST": "true"})
    assert refused.code == 2
    assert "--ledger-must-exist" in refused.err
    assert server.journal.begun_puts() == []
    assert place.run("run", "m.csv").code == 0
    assert place.run("run", "m.csv", "--ledger-must-exist").code == 0


def test_a_relative_ledger_is_refused(place: Place, server: Server) -> None:
    """It would be another one in each folder: three slashes are an error, with the right form."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    refused = place.run("run", "m.csv", "--ledger", "sqlite:///ledger.db")
    assert refused.code == 2
    assert "four slashes" in refused.err
    assert server.journal.begun_puts() == []


def test_a_ledger_that_is_deleted_under_a_run_stops_it(place: Place) -> None:
    """Nothing more is sent, exit 5 says why; what the run knew is kept, and put back it carries on: nothing twice."""
    rows = make_rows(place, 60, 20)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "5")
    place.use(server)
    running = place.start("run", "m.csv", "--limit", "5")
    until(lambda: server.lines() > 20, "the run is under way")
    for path in place.ledger.parent.glob("ledger.db*"):
        path.unlink()
    ending = running.wait()
    assert ending.code == 5
    assert "it was deleted, renamed or replaced while this run used it" in ending.out
    assert len(server.journal.appended()) < len(rows)
    rescued = place.ledger.with_name("ledger.db.rescued")
    # no results file of this name shows that a ledger was lost
    write_manifest(place, "again.csv", rows)
    refused = place.run("run", "again.csv", "--limit", "5")
    assert (refused.code, rescued.name in refused.err) == (2, True)
    for path in place.ledger.parent.glob("ledger.db*"):
        if path != rescued:
            path.unlink()
    rescued.rename(place.ledger)
    assert place.run("run", "m.csv", "--limit", "5").code == 0
    check_appended(server.journal, rows)


@pytest.mark.parametrize("step", range(4))
def test_a_run_killed_while_its_ledger_is_made_leaves_a_whole_one_or_none(
    place: Place, server: Server, step: int
) -> None:
    """Kill -9 at its first sight of a file beside the ledger: the next run simply works, and appends all once."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    folder = place.ledger.parent
    signs = ("ledger.db.lock", "ledger.db.reserve", ".ledger.db.*.new", "ledger.db")
    running = place.start("run", "m.csv", "--doubt-seconds", "1")
    until(lambda: running.is_over or any(folder.glob(signs[step])), "the ledger is being made")
    running.stop(signal.SIGKILL)
    again = place.run("run", "m.csv", "--doubt-seconds", "1")
    assert again.code in (0, 4), again.err
    check_interrupted(server.journal, rows, read_results(place.path("m.results.csv")))


def test_a_read_only_folder_is_enough_to_read(place: Place, server: Server) -> None:
    """`status`, `plan` and `results` work where the ledger's folder is mounted read-only."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    assert place.run("run", "m.csv").code == 0
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, "sh", str(place.ledger.parent))
    tried = subprocess.run([*before, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted read-only here: {tried.stderr.decode().strip()}")
    for command in (("status",), ("plan", "m.csv"), ("results", "--results", str(place.path("r.csv")))):
        ending = place.run(*command, before=before)
        assert ending.code == 0, ending.err
    assert len(read_results(place.path("r.csv"))) == 2
    refused = place.run("run", "m.csv", before=before)
    assert refused.code == 2
    assert "is not writable" in refused.err


def test_too_few_files_may_be_open_is_told(place: Place, server: Server) -> None:
    """`ulimit -n 12`: the cause and its remedy, not the disk's fault, and never a fault of ours."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    for most in (12, 14, 15, 16):
        limited = ("sh", "-c", f'ulimit -n {most}; exec "$@"', "sh")
        ending = place.run("run", "m.csv", before=limited)
        said = ending.err + ending.out
        assert ending.code in (0, 2, 5), said
        assert ending.code == 0 or "Too many open files: raise the limit of open files (ulimit -n)" in said, said
        assert ending.events("run.ended"), said
        assert not ending.events("stream.unwritten"), said


@pytest.mark.real_start
@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["all of it", "the streams"],
)
def test_a_locale_that_is_not_utf_8_is_no_fault(place: Place, server: Server, locale: dict[str, str]) -> None:
    """Names with any letters are found, sent and told; what the terminal cannot show is escaped."""
    (row,) = make_rows(place, 1, 1, folder="töne")
    write_manifest(place, "märz.csv", [row])
    for command in ("plan", "run"):
        ending = place.run(command, "märz.csv", environment=locale)
        assert ending.code == 0, ending.err
        assert "rz.csv" in ending.out
    assert place.run("status", environment=locale).code == 0
    check_appended(server.journal, [row])
    assert [line["audioPath"] for line in read_results(place.path("märz.results.csv"))] == [row.audio]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that has no name")
def test_a_user_without_home_and_name_needs_a_named_ledger(place: Place, server: Server) -> None:
    """No HOME, no passwd entry: a ledger that is named works, else exit 2 says to name one."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    for path in (place.folder, place.path(".streams")):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    before = ("env", "-u", "HOME", "-u", "XDG_STATE_HOME", "setpriv", "--reuid", "4242", "--clear-groups")
    tried = subprocess.run([*before, sys.executable, "-c", ""], capture_output=True, check=False)
    if tried.returncode or not _can_traverse(place.folder):
        pytest.skip("such a user cannot start the interpreter, or reach the test's folder, here")
    assert place.run("run", "m.csv", before=before).code == 2
    assert place.run("run", "m.csv", "--ledger", f"sqlite:///{place.path('l.db')}", before=before).code == 0


def _can_traverse(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in folder.parents)
