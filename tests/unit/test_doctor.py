"""`uploader doctor`: each fault has its line, its remedy and the code of a run; no secret is shown."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from email.utils import formatdate
from importlib import metadata
from pathlib import Path

import pytest

from uploader.cli import doctor
from uploader.errors import ExitCode
from uploader.ledger import Ledger
from uploader.model import Answer
from uploader.settings import Settings
from uploader.settings.loading import load

SECRET = "do-not-tell-anybody"
NOW = 1_800_000_000.0


@pytest.fixture
def place(bare_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a folder, credentials in the environment, and nothing else of this machine's environment."""
    monkeypatch.setenv("UPLOADER_APP_ID", "the-app-id")
    monkeypatch.setenv("UPLOADER_APP_SECRET", SECRET)
    return bare_place


def settings_in(place: Path, **given: object) -> Settings:
    """Load settings with a ledger in the folder."""
    return load({"ledger": f"sqlite:///{place}/l.db", "new_ledger": True, **given}, None)


def diagnosed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, object]]]:
    """Run the offline checks; return the exit code and the checks by name."""
    code = doctor.diagnose(settings, offline=True, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["exitCode"] == code
    return int(code), {check["check"]: check for check in report["checks"]}


def test_all_is_well_in_a_sound_place(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No fault: exit 0, each check has its line, and what was not checked is not called ok."""
    code, checks = diagnosed(settings_in(place), capsys)
    assert code == 0
    assert [*checks] == ["secrets", "ledger", "results", "log", "disk", "proxy", "ca", "stores", "token", "clock"]
    assert {name: check["verdict"] for name, check in checks.items() if name != "stores"} == {
        **dict.fromkeys(("secrets", "results", "log", "disk", "proxy", "ca"), "ok"),
        "ledger": "warning",
        "token": "skipped",
        "clock": "skipped",
    }
    assert not (place / "l.db").exists(), "a look makes no ledger"


@pytest.mark.parametrize("installed", [True, False])
def test_what_reads_the_clouds_stores_is_told(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    """An extra that is not there is no fault, and has its command."""

    def version(name: str) -> str:
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return "0.12.1"

    monkeypatch.setattr(metadata, "version", version)
    found = doctor.check_stores()
    assert found.verdict == ("ok" if installed else "skipped")
    assert ("obstore 0.12.1" if installed else "pip install 'uploader[cloud]'") in found.text


def test_a_line_each_and_a_sentence_at_the_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text has the lines of the JSON, and tells the code of a run."""
    assert doctor.diagnose(settings_in(place, ledger_must_exist=True), offline=True, as_json=False) == 2
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"fault +ledger +ledger /.*: there is none, and --ledger-must-exist forbids to make one", lines[1])
    assert lines[-1] == "1 fault: `uploader run` would end with 2."


@pytest.mark.parametrize("way", ["environment", "file", "folder"])
def test_the_source_of_a_secret_is_told_and_never_its_value(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """Each of the three sources is named; the value is in no output."""
    told = {
        "environment": "the environment",
        "file": f"the file {place}/kept (",
        "folder": f"the secrets folder {place}",
    }
    if way != "environment":
        monkeypatch.delenv("UPLOADER_APP_SECRET")
        path = place / "kept" if way == "file" else place / "secrets" / "uploader_app_secret"
        path.write_text(SECRET)
    if way == "file":
        monkeypatch.setenv("UPLOADER_APP_SECRET_FILE", str(place / "kept"))
    for as_json in (True, False):
        doctor.diagnose(settings_in(place), offline=True, as_json=as_json)
    shown = capsys.readouterr().out
    assert f"UPLOADER_APP_SECRET from {told[way]}" in shown
    assert SECRET not in shown
    assert "the-app-id" not in shown


def _make_ledger(place: Path) -> None:
    with closing(Ledger.open_for_run(f"sqlite:///{place}/l.db")):
        pass


def _hold(place: Path) -> None:
    _make_ledger(place)
    # it is released as the process of the test ends
    KEPT.append(Ledger.open_for_run(f"sqlite:///{place}/l.db"))


def _older_copy(place: Path) -> None:
    _make_ledger(place)
    content = (place / "l.db").read_bytes()
    _make_ledger(place)
    (place / "l.db").write_bytes(content)


def _no_ledger(place: Path) -> None:
    (place / "l.db").write_bytes(b"no database" * 1000)


def _closed_folder(place: Path) -> None:
    (place / "l.db").mkdir()


KEPT: list[Ledger] = []
LEDGERS: Mapping[str, tuple[Callable[[Path], None], int, str]] = {
    "a run is at work": (_hold, 6, "a run is at work on it: wait for its end"),
    "an older copy": (_older_copy, 2, "this is an older copy"),
    "another file": (_no_ledger, 2, "no ledger of the uploader, or a damaged one"),
    "a folder in its place": (_closed_folder, 2, "it is no file that can be written"),
}


@pytest.mark.parametrize("fault", LEDGERS)
def test_a_ledger_that_no_run_could_use_is_a_fault(place: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    """The code is that of a run, and the line has its message."""
    make, expected, text = LEDGERS[fault]
    make(place)
    try:
        code, checks = diagnosed(settings_in(place), capsys)
    finally:
        while KEPT:
            KEPT.pop().close()
    assert code == expected
    assert checks["ledger"]["verdict"] == "fault"
    assert text in str(checks["ledger"]["text"])


def test_a_sound_ledger_is_described(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Place, file system, size, schema, runs and age are told."""
    _make_ledger(place)
    code, checks = diagnosed(settings_in(place), capsys)
    ledger = checks["ledger"]
    assert (code, ledger["verdict"], ledger["runs"]) == (0, "ok", 1)
    assert ledger["ledger"] == str(place / "l.db")
    assert ledger["bytes"] == (place / "l.db").stat().st_size
    assert ledger["fileSystem"] or sys.platform != "linux"


@pytest.mark.parametrize("option", ["results", "summary", "metrics"])
def test_a_file_that_cannot_be_written_is_a_fault(place: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """A folder that is missing is told with its path; exit 2."""
    code, checks = diagnosed(settings_in(place, **{option: place / "gone" / "r.csv"}), capsys)
    assert code == 2
    assert re.search("(does not exist|missing or not writable): make it (so )?or name", str(checks[option]["text"]))


def test_a_default_ledger_whose_folder_is_not_made_yet_is_no_fault(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run makes the default folder; a look does not."""
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    code, checks = diagnosed(load({"new_ledger": True}, None), capsys)
    assert (code, checks["ledger"]["verdict"]) == (0, "warning")
    assert not (place / "state").exists()


def test_no_credentials_is_a_fault(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of them are none."""
    monkeypatch.delenv("UPLOADER_APP_SECRET")
    code, checks = diagnosed(settings_in(place), capsys)
    assert code == 2
    assert "UPLOADER_APP_SECRET is missing" in str(checks["secrets"]["text"])


def test_the_proxy_is_told_without_its_login(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy's address may have a password in it; one that is none is a fault."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example:3128")
    _, checks = diagnosed(settings_in(place), capsys)
    assert checks["proxy"]["text"] == "api.symbl.ai:443 through the proxy proxy.example:3128"
    monkeypatch.setenv("HTTPS_PROXY", f"ftp://user:{SECRET}@proxy.example:3128")
    code, checks = diagnosed(settings_in(place), capsys)
    assert (code, checks["proxy"]["verdict"]) == (2, "fault")
    assert SECRET not in str(checks)


def test_a_variable_that_names_no_certificate_is_a_fault(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SSL_CERT_FILE of a file that is missing is told with the variable's name."""
    monkeypatch.setenv("SSL_CERT_FILE", str(place / "gone.pem"))
    code, checks = diagnosed(settings_in(place), capsys)
    assert code == 2
    assert "SSL_CERT_FILE" in str(checks["ca"]["text"])


@pytest.mark.parametrize(
    ("free", "verdict", "code"),
    [(1_000_000, "fault", ExitCode.GAVE_UP), (900_000_000, "warning", 0), (2_000_000_000, "ok", 0)],
)
def test_free_space_is_judged(free: int, verdict: str, code: int) -> None:
    """Less than a run reserves at its start is a fault; less than a large night may need is a warning."""
    found = doctor.judge_disk("the ledger", Path("/l"), free)
    assert (found.verdict, found.exit_code) == (verdict, code)


ANSWERS = [
    (Answer(404, {}), "ok", ExitCode.DONE),
    (Answer(429), "ok", ExitCode.DONE),
    (Answer(200, {}), "ok", ExitCode.DONE),
    (Answer(403), "warning", ExitCode.DONE),
    (Answer(401), "fault", ExitCode.CREDENTIALS),
    (Answer(502, failure="Bad Gateway"), "fault", ExitCode.GAVE_UP),
    (Answer(301, failure="it leads to https://x, which is not followed"), "fault", ExitCode.GAVE_UP),
    (Answer(failure="Connection refused (h)"), "fault", ExitCode.GAVE_UP),
]


@pytest.mark.parametrize(("answer", "verdict", "code"), ANSWERS)
def test_the_services_answer_is_judged(answer: Answer, verdict: str, code: ExitCode) -> None:
    """Any answer below 500 but 401 and a redirect shows that the token is taken."""
    found = doctor.judge_answer(answer, "host", 0.2)
    assert (found.verdict, found.exit_code) == (verdict, code)


@pytest.mark.parametrize(
    ("off", "verdict", "ahead"),
    [(0, "ok", 0), (20, "ok", 20), (-20, "ok", -19), (600, "warning", 600), (-600, "warning", -599)],
)
def test_the_clock_is_compared_to_the_date_header(off: int, verdict: str, ahead: int) -> None:
    """Seconds within the answer's time are no difference; half a minute is none that matters."""
    # the service wrote its date a second after the request began, by its own clock
    date = formatdate(NOW + 1 - off, usegmt=True)
    found = doctor.judge_clock(date, NOW, NOW + 2)
    assert found.verdict == verdict
    assert abs(found.facts["aheadSeconds"] - ahead) <= 2


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_an_answer_without_a_date_tells_nothing_of_the_clock(date: str | None) -> None:
    """A header that is missing or no date is not taken for a clock that agrees."""
    assert doctor.judge_clock(date, NOW, NOW).verdict == "skipped"
