"""Bad input ends with 2 before anything is sent, and the message says where, what, and what to do."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.acceptance.batches import make_rows, write_manifest
from tests.acceptance.place import Ending, Place, Server
from tests.unit.recordings import recording

HEADER = "conversationId,audioPath\n"
MANIFEST = f"{HEADER}one,a.wav\n"

# a program that becomes another one, without root's leave to read and write every file
DROP = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
        sys.exit("not permitted")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="session")
def bound_by_modes() -> tuple[str, ...]:
    """The beginning of a command for which file modes hold as for anybody, though root gives it."""
    if os.geteuid() != 0:
        return ()
    drop = (sys.executable, "-S", "-c", DROP)
    if subprocess.run([*drop, sys.executable, "-S", "-c", ""], check=False).returncode:
        pytest.skip("this root may not drop its privilege to read and write every file")
    return drop


@pytest.fixture
def place(place: Place) -> Place:
    """A place with one good recording and one good manifest."""
    place.write("a.wav", b"RIFF, as good as any")
    place.write("m.csv", MANIFEST)
    return place


def rows_told(ending: Ending) -> list[str]:
    """Return the problems of rows that the log tells: line, column, value and remedy."""
    told = [
        [str(event["line"]), event["column"], repr(event["value"]) if event["value"] else "", event["remedy"]]
        for event in ending.events("row.invalid")
    ]
    return [" ".join(filter(None, cells)) for cells in told]


def _check_refused(ending: Ending, server: Server, *words: str) -> None:
    """The command ended with 2, said all these words, and sent nothing."""
    assert ending.code == 2, ending.err
    reasons = [event["reason"] for name in ("run.ended", "run.refused") for event in ending.events(name)]
    message = "\n".join([*reasons, *rows_told(ending)])
    assert [word for word in words if word not in message] == [], message
    assert ending.out == ""
    assert server.journal.entries == []


def test_a_missing_manifest_is_refused(place: Place, server: Server) -> None:
    """A manifest that is not there is told by its name, with what to do."""
    ending = place.run("run", "missing.csv")
    _check_refused(ending, server, "manifest missing.csv", "No such file", "name a file that can be read")


def test_an_empty_manifest_is_refused(place: Place, server: Server) -> None:
    """A manifest without a header says how one begins."""
    place.write("empty.csv", b"")
    _check_refused(
        place.run("run", "empty.csv"), server, "manifest empty.csv", "it is empty", "write a header and a row"
    )


@pytest.mark.parametrize("name", ["january.csv", "january"])
def test_a_folder_in_a_manifests_place_is_refused(place: Place, server: Server, name: str) -> None:
    """A folder given in place of a manifest is refused as a folder, whatever its name ends with."""
    place.path(name).mkdir()
    _check_refused(place.run("run", name), server, f"manifest {name}", "this is a folder")


def test_a_manifest_that_is_not_utf_8_is_refused(place: Place, server: Server) -> None:
    """A manifest in another encoding is told by line and byte, with the remedy."""
    place.write("latin-1.csv", f"{MANIFEST}zwölf,a.wav\n".encode("latin-1"))
    ending = place.run("run", "latin-1.csv")
    _check_refused(ending, server, "manifest latin-1.csv, line 3", "UTF-8", "0xf6", "save the manifest as UTF-8")


@pytest.mark.parametrize("words", [("run",), ("run", "--on-invalid", "skip"), ("plan",), ("plan", "--json")])
def test_a_wrong_column_is_refused_together_with_what_is_wrong_in_the_rows(
    place: Place, server: Server, words: tuple[str, ...]
) -> None:
    """Unknown and missing columns, with the names that were meant, and bad values, empty ids, gone files: at once."""
    place.write("a.wav", recording())
    place.write("columns.csv", "conversationId,audioFile,nmae,mode\none,a.wav,x,loud\n,a.wav,x,phone\n")
    ending = place.run(*words, "columns.csv")
    told = [
        (1, "audioFile", "unknown column: did you mean audioPath?"),
        (1, "nmae", "unknown column: did you mean name?"),
        (1, "audioPath", "the column audioPath is missing: add it"),
        (2, "mode", "write phone or default"),
        (3, "conversationId", "it is empty: every row needs one"),
    ]
    if "--json" in words:
        found = json.loads(ending.out)["problems"]
        assert [(one["line"], one["column"]) for one in found] == [(line, column) for line, column, _ in told]
    else:
        assert "manifest columns.csv: 5 problems in the header and 2 of 2 rows" in ending.err
        rows = rows_told(ending) or [line.strip() for line in ending.err.splitlines()[-5:]]
        for row, (line, column, remedy) in zip(rows, told, strict=True):
            assert row.split()[:2] == [str(line), column]
            assert remedy in row
    assert (ending.code, server.journal.puts()) == (2, [])
    place.write("more.csv", "conversationId,audioPath,nmae\none,gone.wav,x\n")
    _check_refused(
        place.run("run", "more.csv"), server, "2 problems in the header and 1 of 1 row", "the file cannot be found"
    )


def test_every_row_of_wrong_form_is_refused_at_once(place: Place, server: Server) -> None:
    """A short row, an empty or impossible cell: all of them are told by line, column, value and remedy."""
    place.write(
        "rows.csv", "conversationId,audioPath,contentType\none,a.wav\n,a.wav,\n..,a.wav,\none,,\none,a.wav,audio/ogg\n"
    )
    ending = place.run("run", "rows.csv")
    _check_refused(
        ending,
        server,
        "manifest rows.csv: 5 problems in 5 of 5 rows",
        "the row has 2 cells, the header 3: give each column one",
        "it is empty: every row needs one",
        "no conversation has this id",
        "write one of audio/wav, audio/wave",
        "nothing was sent",
    )
    lines = [" ".join(line.split()[:3]) for line in rows_told(ending)]
    assert lines == [
        "2 the row",
        "3 conversationId it",
        "4 conversationId '..'",
        "5 audioPath it",
        "6 contentType 'audio/ogg'",
    ]


def test_every_wrong_parameter_is_refused_at_once(place: Place, server: Server) -> None:
    """Types, ranges, shapes and what does not go together, of the row over the config's, before anything is sent."""
    place.write("night.toml", "[parameters]\nconfidenceThreshold = 0.7\ndiarizationSpeakerCount = 2\n")
    place.write(
        "rows.jsonl",
        '{"conversationId":"one","audioPath":"a.wav","confidenceThreshold":0.4,"mode":"loud","nmae":"x"}\n'
        '{"conversationId":"one","audioPath":"a.wav","enableSpeakerDiarization":true,"trackers":[{"name":"n"}]}\n',
    )
    ending = place.run("run", "rows.jsonl", "--config", "night.toml")
    _check_refused(
        ending,
        server,
        "manifest rows.jsonl: 5 problems in 2 of 2 rows",
        "did you mean name?",
        "write a number from 0.5 to 1.0",
        "write phone or default",
        "it works only where enableSpeakerDiarization is true",
        "(entry 1, vocabulary: Field required)",
    )


def test_a_plan_tells_what_is_wrong_to_a_machine(place: Place, server: Server) -> None:
    """One JSON object: counts, and each problem and warning with line, column, value and remedy; a header's, too."""
    place.write("rows.csv", "conversationId,audioPath,mode,entities\n" + 'one,a.wav,loud,"[]"\n' * 60)
    place.write("a.wav", recording())
    ending = place.run("plan", "rows.csv", "--json", "--all")
    assert ending.code == 2
    report = json.loads(ending.out)
    counts = [report[name] for name in ("rows", "invalid", "problemCount", "warningCount")]
    assert (report["exitCode"], counts) == (2, [60, 60, 60, 60])
    assert (len(report["problems"]), len(report["warnings"])) == (60, 60)
    assert report["problems"][59] == {"line": 61, "column": "mode", "value": "loud", "remedy": "write phone or default"}
    place.write("header.csv", "conversationId;audioPath\none;a.wav\n")
    ending = place.run("plan", "header.csv", "--json", "--on-invalid", "skip")
    assert ending.code == 2
    (problem,) = json.loads(ending.out)["problems"]
    assert "--delimiter ';'" in problem["remedy"]


def test_a_plan_without_audio_looks_at_no_file(place: Place, server: Server) -> None:
    """Rows are checked, files are not asked for."""
    place.write("rows.csv", "conversationId,audioPath\none,missing.wav\n")
    assert place.run("plan", "rows.csv").code == 2
    ending = place.run("plan", "rows.csv", "--no-audio", "--json")
    assert ending.code == 0
    report = json.loads(ending.out)
    assert [report[name] for name in ("rows", "invalid", "files", "bytes")] == [1, 0, None, None]


@pytest.fixture(scope="session")
def unfit_files(
    tmp_path_factory: pytest.TempPathFactory, shared_server: Server, bound_by_modes: tuple[str, ...]
) -> Ending:
    """Return a run's messages on a manifest that names every kind of file that cannot be sent."""
    place = Place(tmp_path_factory.mktemp("unfit"))
    outside = place.write("outside.wav", b"not to be sent")
    place.write("root/good.wav", b"as good as any")
    place.write("root/empty.wav", b"")
    os.mkfifo(place.path("root/pipe.wav"))
    place.write("root/secret.wav", b"not for us").chmod(0)
    place.path("root/link.wav").symlink_to(outside)
    names = ["good", "missing", "empty", "pipe", "secret", "../outside", "link"]
    place.write("m.csv", HEADER + "".join(f"one,{name}.wav\n" for name in names) + f"one,{outside}\n")
    place.use(shared_server)
    since = shared_server.from_now_on()
    ending = place.run("run", "m.csv", "--audio-root", "root", before=bound_by_modes)
    # at once: the tests that come between write into the same journal
    _check_refused(ending, since)
    return ending


@pytest.mark.parametrize(
    ("line", "value", "words"),
    [
        (3, "missing.wav", ["No such file", "correct the path"]),
        (4, "empty.wav", ["the file is empty", "leave the row out"]),
        (5, "pipe.wav", ["no regular file", "name an audio file"]),
        (6, "secret.wav", ["cannot be read", "leave to read"]),
        (7, "../outside.wav", ["outside the audio root root", "move the file or the root"]),
        (8, "link.wav", ["outside the audio root root", "move the file or the root"]),
        (9, "/", ["outside the audio root root", "move the file or the root"]),
    ],
    ids=["missing", "empty", "fifo", "unreadable", "dots lead outside", "a link leads outside", "absolute and outside"],
)
def test_a_file_that_cannot_be_sent_is_refused(unfit_files: Ending, line: int, value: str, words: list[str]) -> None:
    """An audio file that cannot be sent is told by line, column, value and remedy, beside all others."""
    row = re.compile(rf"{line} audioPath '{re.escape(value)}")
    (message,) = filter(row.match, rows_told(unfit_files))
    assert [word for word in words if word not in message] == []


def test_results_in_a_read_only_folder_are_refused(
    place: Place, server: Server, bound_by_modes: tuple[str, ...]
) -> None:
    """Results that could not be written at the end are found out at the beginning."""
    place.path("closed").mkdir(0o555)
    ending = place.run("run", "m.csv", "--results", "closed/r.csv", before=bound_by_modes)
    _check_refused(ending, server, "results closed/r.csv", "folder closed", "not writable", "name another")


def test_results_in_a_missing_folder_are_refused(place: Place, server: Server) -> None:
    """A folder of the results that does not exist is told, with what to do."""
    ending = place.run("run", "m.csv", "--results", "nowhere/r.csv")
    _check_refused(ending, server, "results nowhere/r.csv", "folder nowhere does not exist", "make it or name another")


def test_results_in_the_manifests_own_place_are_refused(place: Place, server: Server) -> None:
    """The manifest is read, never written: its own path is no place for the results."""
    ending = place.run("run", "m.csv", "--results", "./m.csv")
    _check_refused(ending, server, "results m.csv", "manifest itself", "name another")
    assert place.path("m.csv").read_text(encoding="utf-8") == MANIFEST


def test_results_that_the_ledger_does_not_know_mean_a_lost_ledger(place: Place, server: Server) -> None:
    """A run on a new ledger beside the results of an old one sends nothing, and says what to do."""
    write_manifest(place, "m.csv", make_rows(place, 4, 4))
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    content = place.path("m.results.csv").read_bytes()
    quiet = server.from_now_on()
    place.ledger.rename(place.ledger.with_name("lost.db"))
    ending = place.run("run", "m.csv", "--limit", "4")
    _check_refused(ending, quiet, "results", "m.results.csv", str(place.ledger), "--ledger", "--results", "sandbox-")
    assert place.path("m.results.csv").read_bytes() == content


def test_a_ledger_in_a_missing_folder_is_refused(place: Place, server: Server) -> None:
    """A folder that was named for the ledger is never made: it may be a volume that is not mounted."""
    ending = place.run("run", "m.csv", "--ledger", f"sqlite:///{place.path('volume/ledger.db')}")
    _check_refused(ending, server, f"ledger {place.path('volume/ledger.db')}", "No such file", "make or mount it")
    assert not place.path("volume").exists()


def test_a_file_that_is_no_ledger_is_refused(place: Place, server: Server) -> None:
    """A file of another kind is not written into."""
    other = place.write("notes.db", "these are no tables\n" * 300)
    ending = place.run("run", "m.csv", "--ledger", f"sqlite:///{other}")
    _check_refused(ending, server, f"ledger {other}", "no ledger", "name another")
    assert other.read_text(encoding="utf-8") == "these are no tables\n" * 300


def test_no_credentials_are_told(place: Place, server: Server) -> None:
    """Without credentials nothing is sent; the message names the variables and the way to try without."""
    for name in ("UPLOADER_APP_ID", "UPLOADER_APP_SECRET"):
        del place.environment[name]
    names = ("UPLOADER_APP_ID", "UPLOADER_APP_SECRET", "UPLOADER_ACCESS_TOKEN")
    _check_refused(place.run("run", "m.csv"), server, "no credentials", *names, "--sandbox")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('limt = 3\n[lanes]\non_trouble = "hold"\n', ["limt: no such setting; did you mean limit?"]),
        ("\n\napp_secret = 'x'\n", ["line 3: app_secret", "secrets do not belong in a config file"]),
        ("\ufeffuploads = 0\n", ["line 1: uploads = 0", "write a whole number from 1 to 1000"]),
        ("uploads = 0\n", ["line 1: uploads = 0", "write a whole number from 1 to 1000"]),
        ("[parameters]\nnmae = 'x'\n", ["[parameters] nmae: no such parameter", "known are", "name"]),
    ],
    ids=["unknown key", "secret", "byte order mark", "wrong value", "unknown parameter"],
)
def test_a_config_file_that_is_wrong_is_refused(place: Place, server: Server, config: str, words: list[str]) -> None:
    """An unknown key or a value that does not fit: the message names file, key, value and remedy."""
    place.write("night.toml", config)
    _check_refused(place.run("run", "m.csv", "--config", "night.toml"), server, "config file night.toml", *words)


def test_http_to_another_machine_is_refused(place: Place, server: Server) -> None:
    """Token and audio never cross a network in the clear, nor to a name that only looks like this machine."""
    url = "http://localhost.example.com"
    _check_refused(place.run("run", "m.csv", "--base-url", url), server, "--base-url", url, "write https://")


def test_standard_input_without_its_options_is_refused(place: Place, server: Server) -> None:
    """A manifest from standard input has no name that tells its format: the option is told."""
    _check_refused(place.run("run", "-", stdin=MANIFEST.encode()), server, "manifest -", "--format csv")


def test_a_refused_run_leaves_no_ledger_that_it_made(place: Place, server: Server) -> None:
    """What made a ledger and was refused takes it away again; a ledger that was there stays as it was."""
    place.write("bad.csv", f"{HEADER}one,missing.wav\n")
    refused = place.run("run", "bad.csv")
    _check_refused(refused, server, "the file cannot be found")
    assert (place.ledger.exists(), refused.events("ledger.made")) == (False, [])
    assert place.run("run", "m.csv", "--ledger-must-exist").code == 2
    made = place.run("run", "m.csv")
    assert (made.code, len(made.events("ledger.made"))) == (0, 1)
    assert place.run("run", "bad.csv").code == 2
    assert place.run("status").code == 0
    assert place.run("run", "m.csv", "--ledger-must-exist").code == 0


def test_a_plan_without_audio_warns_of_rows_beside_one_another(place: Place, server: Server) -> None:
    """A repeat and ids that differ by letter case alone need no look at a file."""
    place.write("m.csv", f"{HEADER}one,a.wav\none,a.wav\nOne,missing.wav\n")
    report = place.run("plan", "m.csv", "--no-audio", "--json").summary
    assert (report["rows"], report["conversations"], report["warningCount"]) == (3, 2, 2)
    told = " ".join(warning["remedy"] for warning in report["warnings"])
    assert "lines 2, 3 append the same file" in told
    assert "differ by letter case alone" in told
    assert server.journal.entries == []


def test_an_invalid_row_beside_one_that_names_its_type_is_told(place: Place) -> None:
    """Exit 2 with the row's line and remedy, whatever optional columns the rows beside it have."""
    place.write("a.wav", recording())
    place.write("m.csv", "conversationId,audioPath,contentType\nc,a.wav,audio/wav\nd,none.wav,\n")
    ending = place.run("plan", "m.csv")
    assert ending.code == 2
    assert "none.wav" in ending.out
    assert "the file cannot be found" in ending.out


@pytest.mark.parametrize(
    ("variable", "is_told"), [("1", True), ("True", True), ("on", True), ("0", False), ("", False)]
)
def test_a_command_that_cannot_be_read_is_told_to_a_machine_that_asked_by_the_environment(
    place: Place, server: Server, variable: str, *, is_told: bool
) -> None:
    """UPLOADER_JSON asks for the object on standard output as --json does, though the other options are wrong."""
    environment = {"UPLOADER_JSON": variable}
    run = place.run("run", "m.csv", "--limitt", "3", environment=environment)
    plan = place.run("plan", environment=environment)
    assert (run.code, plan.code) == (2, 2)
    assert server.journal.entries == []
    if not is_told:
        assert (run.out, plan.out) == ("", "")
        return
    assert (run.summary["exitCode"], run.summary["counts"], run.summary["heldBackBy"]) == (2, {}, {})
    assert "--limitt" in run.summary["reason"]
    assert plan.summary == {"exitCode": 2, "reason": plan.summary["reason"]}
    assert "MANIFEST" in plan.summary["reason"]
