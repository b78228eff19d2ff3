"""Bad input ends with 2 before anything is sent, and the message says where, what, and what to do."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.acceptance.batches import make_rows, write_manifest
from tests.acceptance.place import Ending, Place, Server

HEADER = "conversationId,audioPath\n"
MANIFEST = f"{HEADER}one,a.wav\n"

DROP = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
        sys.exit("not permitted")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A program that becomes another one, without root's leave to read and write every file."""


@pytest.fixture
def place(place: Place) -> Place:
    """A place with one good recording."""
    place.write("a.wav", b"RIFF, as good as any")
    return place


def _check_refused(ending: Ending, server: Server, *words: str) -> None:
    """The command ended with 2, said all these words, and sent nothing."""
    assert ending.code == 2, ending.err
    told = [line for line in ending.err.splitlines() if not line.startswith("{")]
    assert [word for word in words if word not in "\n".join(told)] == [], ending.err
    assert ending.out == ""
    assert server.journal.entries == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.csv", None, ["manifest missing.csv", "No such file", "name a file that can be read"]),
        ("empty.csv", b"", ["manifest empty.csv", "empty", "write a header and a row"]),
        (
            "latin-1.csv",
            f"{MANIFEST}zwölf,a.wav\n".encode("latin-1"),
            ["manifest latin-1.csv, line 3", "UTF-8", "0xf6", "save the manifest as UTF-8"],
        ),
        (
            "column.csv",
            b"conversationId,audioFile,nmae\none,a.wav,x\n",
            [
                *("manifest column.csv, line 1, audioFile: unknown column: did you mean audioPath?", "begin with x-"),
                *(
                    "line 1, nmae: unknown column: did you mean name?",
                    "line 1: the column audioPath is missing: add it",
                ),
            ],
        ),
        (
            "rows.csv",
            b"conversationId,audioPath,contentType\none,a.wav\n,a.wav,\n..,a.wav,\none,,\none,a.wav,audio/ogg\n",
            [
                *("manifest rows.csv, line 2: the row has 2 cells, the header 3: give each column one",),
                *("manifest rows.csv, line 3, conversationId: it is empty: every row needs one",),
                *("manifest rows.csv, line 4, conversationId: '..': no conversation has this id",),
                *("manifest rows.csv, line 5, audioPath: it is empty",),
                *("manifest rows.csv, line 6, contentType: 'audio/ogg': write one of audio/wav, audio/wave",),
            ],
        ),
        (
            "rows.jsonl",
            b'{"conversationId": "one",\n{"conversationId": 4711, "audioPath": "a.wav"}\n',
            [
                *("manifest rows.jsonl, line 1: ", "no JSON", "mend the line"),
                *("manifest rows.jsonl, line 2, conversationId: '4711'", "in quotes"),
            ],
        ),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(
    place: Place, server: Server, name: str, content: bytes | None, words: list[str]
) -> None:
    """A manifest that is missing, empty, not UTF-8 or wrong in form: all that is wrong is told, and where."""
    if content is not None:
        place.write(name, content)
    _check_refused(place.run("run", name), server, *words)


@pytest.mark.parametrize("name", ["january.csv", "january"])
def test_a_folder_in_a_manifests_place_is_refused(place: Place, server: Server, name: str) -> None:
    """Who names the folder instead of the manifest in it is told so, whatever the folder's name ends with."""
    place.path(name).mkdir()
    _check_refused(place.run("run", name), server, f"manifest {name}", "this is a folder")


def _missing(_place: Place) -> str:
    return "gone.wav"


def _empty(place: Place) -> str:
    place.write("empty.wav", b"")
    return "empty.wav"


def _fifo(place: Place) -> str:
    os.mkfifo(place.path("pipe.wav"))
    return "pipe.wav"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, ["'gone.wav'", "No such file", "correct the path"]),
        (_empty, ["'empty.wav'", "empty", "leave the row out"]),
        (_fifo, ["'pipe.wav'", "no regular file", "name an audio file"]),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(
    place: Place, server: Server, make: Callable[[Place], str], words: list[str]
) -> None:
    """An audio file that is missing, empty or a FIFO is told by line, column, value and remedy."""
    place.write("m.csv", f"{MANIFEST}two,{make(place)}\n")
    _check_refused(place.run("run", "m.csv"), server, "manifest m.csv, line 3, audioPath", *words)


def test_a_path_that_leads_out_of_the_audio_root_is_refused(place: Place, server: Server) -> None:
    """With --audio-root no path leads outside: not by dots, not by a link, not by being absolute."""
    outside = place.write("outside.wav", b"not to be sent")
    place.write("root/a.wav", b"as good as any")
    place.path("root/link.wav").symlink_to(outside)
    place.write("m.csv", f"{MANIFEST}two,../outside.wav\ntwo,link.wav\ntwo,{outside}\n")
    _check_refused(
        place.run("run", "m.csv", "--audio-root", "root"),
        server,
        "manifest m.csv, line 3, audioPath: '../outside.wav': the path leads outside the audio root root",
        "manifest m.csv, line 4, audioPath: 'link.wav': the path leads outside the audio root root",
        f"manifest m.csv, line 5, audioPath: '{outside}': the path leads outside the audio root root",
        "move the file or the root",
    )


@pytest.fixture(scope="session")
def bound_by_modes() -> tuple[str, ...]:
    """The beginning of a command for which file modes hold as for anybody, though root gives it."""
    if os.geteuid() != 0:
        return ()
    drop = (sys.executable, "-S", "-c", DROP)
    if subprocess.run([*drop, sys.executable, "-S", "-c", ""], check=False).returncode:
        pytest.skip("this root may not drop its privilege to read and write every file")
    return drop


def test_a_file_that_may_not_be_read_is_refused(place: Place, server: Server, bound_by_modes: tuple[str, ...]) -> None:
    """An audio file without leave to read is told before anything is sent."""
    place.write("secret.wav", b"not for us").chmod(0)
    place.write("m.csv", f"{MANIFEST}two,secret.wav\n")
    ending = place.run("run", "m.csv", before=bound_by_modes)
    _check_refused(
        ending, server, "manifest m.csv, line 3, audioPath", "'secret.wav'", "cannot be read", "leave to read"
    )


def test_results_in_a_read_only_folder_are_refused(
    place: Place, server: Server, bound_by_modes: tuple[str, ...]
) -> None:
    """Results that cannot be written at the end are found out at the beginning."""
    place.write("m.csv", MANIFEST)
    place.path("closed").mkdir(0o555)
    ending = place.run("run", "m.csv", "--results", "closed/r.csv", before=bound_by_modes)
    _check_refused(ending, server, "results closed/r.csv", "folder closed", "not writable", "name another")


def test_results_in_a_missing_folder_are_refused(place: Place, server: Server) -> None:
    """A folder of the results that does not exist is told, with what to do."""
    place.write("m.csv", MANIFEST)
    ending = place.run("run", "m.csv", "--results", "nowhere/r.csv")
    _check_refused(ending, server, "results nowhere/r.csv", "folder nowhere does not exist", "make it or name another")


def test_results_in_the_manifests_own_place_are_refused(place: Place, server: Server) -> None:
    """The manifest is read, never written: its own path is no place for the results."""
    manifest = place.write("m.csv", MANIFEST)
    _check_refused(
        place.run("run", "m.csv", "--results", "./m.csv"), server, "results m.csv", "manifest", "name another"
    )
    assert manifest.read_text(encoding="utf-8") == MANIFEST


def test_a_file_of_another_kind_in_the_results_place_is_left_alone(place: Place, server: Server) -> None:
    """A CSV file that is none of ours is not replaced by results."""
    place.write("m.csv", MANIFEST)
    other = place.write("customers.csv", "name,city\nAda,London\n")
    ending = place.run("run", "m.csv", "--results", "customers.csv")
    _check_refused(ending, server, "results customers.csv", "name another")
    assert other.read_text(encoding="utf-8") == "name,city\nAda,London\n"


def test_a_ledger_in_a_missing_folder_is_refused(place: Place, server: Server) -> None:
    """A folder that was named for the ledger is never made: it may be a volume that is not mounted."""
    place.write("m.csv", MANIFEST)
    ending = place.run("run", "m.csv", "--ledger", f"sqlite:///{place.path('volume/ledger.db')}")
    _check_refused(ending, server, f"ledger {place.path('volume/ledger.db')}", "No such file", "make or mount it")
    assert not place.path("volume").exists()


def test_a_file_that_is_no_ledger_is_refused(place: Place, server: Server) -> None:
    """A file of another kind is not written into."""
    place.write("m.csv", MANIFEST)
    other = place.write("notes.db", "these are no tables\n" * 300)
    ending = place.run("run", "m.csv", "--ledger", f"sqlite:///{other}")
    _check_refused(ending, server, f"ledger {other}", "no ledger", "name another")
    assert other.read_text(encoding="utf-8") == "these are no tables\n" * 300


def test_results_that_the_ledger_does_not_know_mean_a_lost_ledger(place: Place, server: Server) -> None:
    """A run on a new ledger beside the results of an old one sends nothing, and says what to do."""
    write_manifest(place, "m.csv", make_rows(place, 4, 4))
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    told = place.path("m.results.csv").read_bytes()
    quiet = server.from_now_on()
    place.ledger.rename(place.path("lost.db"))
    ending = place.run("run", "m.csv", "--limit", "4")
    _check_refused(ending, quiet, "results", "m.results.csv", str(place.ledger), "--ledger", "--results", "sandbox-")
    assert place.path("m.results.csv").read_bytes() == told


def test_no_credentials_are_told(place: Place, server: Server) -> None:
    """Without credentials nothing is sent; the message names the variables and the way to try without."""
    place.write("m.csv", MANIFEST)
    for name in ("UPLOADER_APP_ID", "UPLOADER_APP_SECRET"):
        del place.environment[name]
    ending = place.run("run", "m.csv")
    _check_refused(
        ending, server, "no credentials", "UPLOADER_APP_ID", "UPLOADER_APP_SECRET", "UPLOADER_ACCESS_TOKEN", "--sandbox"
    )


def test_all_that_is_wrong_in_a_config_file_is_told(place: Place, server: Server) -> None:
    """An unknown key and a value that does not fit: the message names file, key, value and remedy of each."""
    place.write("m.csv", MANIFEST)
    place.write("night.toml", 'limt = 3\nuploads = 0\n[lanes]\non_truoble = "hold"\n')
    _check_refused(
        place.run("run", "m.csv", "--config", "night.toml"),
        server,
        "config file night.toml: limt: no such setting; did you mean limit?",
        "config file night.toml: uploads = 0: Input should be greater than or equal to 1",
        "config file night.toml: lanes.on_truoble: no such setting; did you mean on_trouble?",
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[parameters]\nnmae = 'x'\n", ["[parameters] nmae", "known are", "name"]),
        ('app_secret = "x"\n', ["app_secret", "secrets do not belong in a config file", "UPLOADER_APP_SECRET"]),
    ],
)
def test_a_key_that_does_not_belong_in_a_config_file_is_told(
    place: Place, server: Server, config: str, words: list[str]
) -> None:
    """A parameter that does not exist, or a secret: the message names file, key and remedy."""
    place.write("m.csv", MANIFEST)
    place.write("night.toml", config)
    _check_refused(place.run("run", "m.csv", "--config", "night.toml"), server, "config file night.toml", *words)


def test_http_to_another_machine_is_refused(place: Place, server: Server) -> None:
    """Token and audio never cross a network in the clear, nor to a name that only looks like this machine."""
    place.write("m.csv", MANIFEST)
    url = "http://localhost.example.com"
    _check_refused(place.run("run", "m.csv", "--base-url", url), server, "--base-url", url, "write https://")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["MANIFEST", "--batch"]),
        (["m.csv", "--app-secret", "x"], ["--app-secret"]),
        (["--batch", "nobody"], ["batch nobody", "uploader run MANIFEST"]),
        (["-"], ["manifest -", "--format", "--batch", "--results"]),
        (["m.csv", "--summary", "nowhere/s.json"], ["summary nowhere/s.json", "folder"]),
    ],
)
def test_a_command_line_that_is_wrong_is_refused(
    place: Place, server: Server, arguments: list[str], words: list[str]
) -> None:
    """What was asked for and cannot be done ends with 2 and names the flag, its value and the remedy."""
    place.write("m.csv", MANIFEST)
    _check_refused(place.run("run", *arguments), server, *words)
