"""Every setting once, checked: where it comes from, and what is told of a wrong one."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from uploader.errors import UsageError
from uploader.ledger.sqlite_ledger import ledger_path
from uploader.parameters import wrong_parameters
from uploader.settings import SECRETS, Settings, default_ledger, settings_of
from uploader.settings.loading import CheckParameters, load, unknown_environment

Loader = Callable[..., Settings]
SECRET = "do-not-tell-anybody"


@pytest.fixture
def sources(bare_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads the settings from what the test names, and from nothing that the machine has."""
    folder = bare_place / "secrets"

    def load_from(
        file: str | None = None,
        environment: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
        check: CheckParameters | None = None,
    ) -> Settings:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        for name, value in (secrets or {}).items():
            (folder / name).write_text(value)
        path = tmp_path / "uploader.toml"
        if file is not None:
            path.write_text(file, encoding="utf-8")
        return load(flags or {}, path if file is not None else None, check)

    return load_from


def told(sources: Loader, **given: Any) -> str:
    """Return the message on settings that do not fit."""
    with pytest.raises(UsageError) as refused:
        sources(**given)
    return str(refused.value)


def test_without_any_source_the_defaults_stand(sources: Loader) -> None:
    """The defaults of design.md's table."""
    settings = sources()
    assert settings.base_url == "https://api.symbl.ai"
    assert settings.limit == 2
    assert (settings.send_ahead, settings.ahead_seconds) == ("auto", 20.0)
    follows = (settings.uploads, settings.rate, settings.doubt.unanswered, settings.jobs.polls_per_second)
    assert follows == ("auto", "auto", "auto", "auto")
    assert (settings.doubt_seconds, settings.give_up_seconds, settings.grace_seconds) == (900.0, 1800.0, 8.0)
    assert (settings.on_invalid, settings.lanes.on_trouble) == ("refuse", "hold")
    assert settings.replies.proves_not_appended == ()
    assert settings.ledger == default_ledger()
    assert settings.ledger.endswith("/uploader/ledger.db")
    assert [settings.repeat, settings.no_wait, settings.sandbox] == [False, False, False]
    assert (settings.app_id, settings.app_secret, settings.access_token) == (None, None, None)


SOURCES: list[tuple[str, Mapping[str, Any]]] = [
    ("file", {"file": "limit = 3"}),
    ("secrets", {"secrets": {"uploader_limit": "4"}}),
    ("environment", {"environment": {"UPLOADER_LIMIT": "5"}}),
    ("flag", {"flags": {"limit": "6"}}),
]


@pytest.mark.parametrize("most", range(4))
@pytest.mark.parametrize("least", range(4))
def test_each_source_outranks_those_below_it(sources: Loader, least: int, most: int) -> None:
    """Flag over environment over secrets folder over file over default."""
    given: dict[str, Any] = {}
    for _, source in SOURCES[min(least, most) : max(least, most) + 1]:
        given |= source
    assert sources(**given).limit == 3 + max(least, most)


@pytest.mark.parametrize("setting", ["uploads", "rate"])
def test_a_number_that_a_person_sets_is_kept_and_auto_takes_it_back(sources: Loader, setting: str) -> None:
    """What follows the account does so unless it is set; the word auto outranks a file's number."""
    file = f"{setting} = 7"
    assert getattr(sources(file=file), setting) == 7
    assert getattr(sources(file=file, flags={setting: " AUTO "}), setting) == "auto"


def test_tables_are_read_from_file_and_environment(sources: Loader) -> None:
    """A table's key has its own variable, which outranks the file's and leaves the other tables alone."""
    file = '[lanes]\non_trouble = "hold"\n[replies]\nproves_not_appended = [500, 503]\n[parameters]\nname = "Q1"\n'
    settings = sources(file=file, environment={"UPLOADER_LANES__ON_TROUBLE": "continue"})
    assert settings.lanes.on_trouble == "continue"
    assert settings.replies.proves_not_appended == (500, 503)
    assert settings.parameters == {"name": "Q1"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"file": "limit = 0"},
            ["uploader.toml", "line 1: limit = 0", "write a whole number from 1 to 100000"],
        ),
        ({"environment": {"UPLOADER_LIMIT": "many"}}, ["environment UPLOADER_LIMIT", "'many'", "write a whole number"]),
        ({"flags": {"rate": "some"}}, ["--rate", "'some'", "write a number above 0, 100000 at most, or auto"]),
        ({"file": "uploads = 0"}, ["uploads = 0", "write a whole number from 1 to 1000, or auto"]),
        ({"flags": {"give_up_seconds": "-1"}}, ["--give-up-seconds", "'-1'", "write a number above 0, 604800 at most"]),
        ({"secrets": {"uploader_limit": "many"}}, ["secrets folder", "limit", "'many'", "write a whole number"]),
        (
            {"secrets": {"uploader_limit": "many"}, "file": "rate = 1.0"},
            ["secrets folder", "limit", "'many'", "write a whole number"],
        ),
        ({"file": 'on_invalid = "maybe"'}, ["uploader.toml", "on_invalid", "'maybe'", "'refuse' or 'skip'"]),
        ({"file": '[lanes]\non_trouble = "stop"'}, ["uploader.toml", "lanes.on_trouble", "'stop'", "'hold'"]),
        (
            {"environment": {"UPLOADER_LANES__ON_TROUBLE": "stop"}},
            ["environment UPLOADER_LANES", "lanes.on_trouble", "'stop'", "'hold'"],
        ),
        ({"file": "[replies]\nproves_not_appended = [502]"}, ["replies.proves_not_appended", "502", "500"]),
        ({"file": 'ledger = "/var/ledger.db"'}, ["ledger", "/var/ledger.db", "sqlite:////"]),
        ({"file": 'ledger = "sqlite:///:memory:"'}, ["ledger", "sqlite:////"]),
        ({"file": 'ledger = "sqlite:////state/ledger.db?mode=ro"'}, ["ledger", "write the path alone"]),
        ({"file": 'batch = ""'}, ["batch", "''", "at least 1"]),
    ],
)
def test_a_wrong_value_is_told_with_source_setting_value_and_remedy(
    sources: Loader, given: Mapping[str, Any], words: list[str]
) -> None:
    """Whoever has to correct it reads where it stands, what it says, and what would do."""
    message = told(sources, **given)
    for word in words:
        assert word in message


# what a config file can hold and hardly any setting can take
WRONG: Sequence[Any] = (
    *(0, -1, 10**30, 2.5, True, float("nan"), float("inf"), date(2026, 11, 22)),
    *("", "zehn", "6", "25:00", "x" * 2000, "[::1", "https://host:port", "1e999", "\0"),
    *([], ["x"], [{"x": 1}], {}, {"x": 1}),
)

# how libraries put it, the standard one among them
LIBRARY = re.compile(
    r"should|unable|input|value error|pydantic|valid (integer|number|string|boolean)|greater|less than|pattern|"
    r"field required|extra inputs|expecting|decod|range 0|invalid ipv6|traceback|\bint\b|\bstr\b|\bdict",
    re.IGNORECASE,
)


def every_setting() -> Iterator[tuple[str, ...]]:
    """Every setting that a config file may hold: its name, after that of its table."""
    for name, setting in settings_of(Settings).items():
        if name not in SECRETS:
            yield (name,)
            yield from ((name, key) for key in (settings_of(setting.table) if setting.table else ()))


def as_toml(value: Any) -> str:
    """A value as a config file has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {as_toml(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value) if isinstance(value, (float, date)) else json.dumps(value)


@pytest.mark.parametrize("where", list(every_setting()), ids=".".join)
def test_whatever_stands_in_a_setting_is_told_in_our_own_words(sources: Loader, where: Sequence[str]) -> None:
    """Each setting with many wrong values: what is refused says line, key and remedy, and no library's words."""
    refused = 0
    for value in WRONG:
        table = f"[{where[0]}]\n" if len(where) > 1 else ""
        try:
            sources(file=f"{table}{where[-1]} = {as_toml(value)}", check=wrong_parameters)
        except UsageError as error:
            refused += 1
            for message in str(error).splitlines():
                assert f"uploader.toml, line {2 if table else 1}: " in message
                assert ".".join(where) in message or f"[{where[0]}]" in message
                # a setting may have the name of a library's word
                own = message.replace(repr(value), "").replace(f": {where[-1]} = ", ": ")
                assert not LIBRARY.search(own), message
    assert refused, "nothing is wrong for it: then it is not checked at all"


@pytest.mark.parametrize(
    ("written", "kept"), [("6:00", "06:00"), ("06:00", "06:00"), ("23:59", "23:59"), ("0:05", "00:05")]
)
def test_a_time_of_day_may_leave_out_a_nought(sources: Loader, written: str, kept: str) -> None:
    """6:00 is six in the morning, for people as for us."""
    assert sources(flags={"until": written}).until == kept


@pytest.mark.parametrize(
    "written", ["25:00", "24:00", "6", "tomorrow", "6:0", "06:60", "-6:00", "06:00:00", "\u0660\u0666:00", ""]
)
def test_what_is_no_time_of_day_is_told_with_one_that_is(sources: Loader, written: str) -> None:
    """The remedy is an example, not a pattern."""
    assert told(sources, flags={"until": written}) == f"--until {written!r}: write it as HH:MM, 06:00 say"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("limit = 0", 1),
        ("# limit = 0\nrate = 1.0\n  limit=0", 3),
        ('batch = """\nlimit = 0\n"""\nlimit = 0', 4),
        ('"limit" = 0', 1),
        ("limit = 0 # the limit", 1),
        ("[parameters]\nname = 'limit'\n[jobs]\npolls_per_second = 0", 4),
        ("jobs.polls_per_second = 0", 1),
        ("jobs = {polls_per_second = 0}", 1),
        ("[parameters]\nmode = 'fax'\n", 2),
        ("[extra_parameters]\nx = 1\n[parameters]\nx = 1\n", 4),
        ("[parameters]\nname = 'x'\n[lane]\non_trouble = 'hold'", 3),
        ("rate = 1.0\n[lanes]\non_troubel = 'hold'", 3),
        ("rate = 1.0\r\n[replies]\r\nproves_not_appended = [\r\n  500,\r\n  502,\r\n]", 3),
    ],
)
def test_the_line_of_a_wrong_key_is_told(sources: Loader, file: str, line: int) -> None:
    """The line where the key itself stands, whatever looks like it in comments, texts and other tables."""
    found = re.findall(r"line (\d+)", told(sources, file=file, check=wrong_parameters))
    assert found == [str(line)]


def test_wrong_parameters_are_told_with_all_else_that_is_wrong(sources: Loader) -> None:
    """Problems of [parameters] are reported together with those of the settings, so that a file is mended once."""
    file = "limit = 0\nlimt = 1\n[parameters]\nconfidenceThreshold = 2\nnmae = 'x'\n[extra_parameters]\nmode = 'x'"
    message = told(sources, file=file, check=wrong_parameters, environment={"UPLOADER_PARAMETERS__MODE": "fax"})
    for words in (
        "line 1: limit = 0",
        "line 2: limt",
        "line 4: [parameters] confidenceThreshold = 2",
        "line 5: [parameters] nmae",
        "line 7: [extra_parameters] mode",
        "environment UPLOADER_PARAMETERS__MODE: [parameters] mode = 'fax'",
    ):
        assert words in message
    assert len(message.splitlines()) == 6


def test_all_wrong_values_are_told_at_once(sources: Loader) -> None:
    """Three mistakes in three sources are three lines."""
    message = told(sources, file="rate = 0", environment={"UPLOADER_UPLOADS": "0"}, flags={"limit": "0"})
    lines = sorted(message.splitlines())
    for line, told_of in zip(lines, ["--limit '0':", "config file", "environment UPLOADER_UPLOADS"], strict=True):
        assert told_of in line


@pytest.mark.parametrize("setting", ["rate", "give_up_seconds", "grace_seconds"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_number_of_seconds_is_refused(sources: Loader, setting: str, value: str) -> None:
    """TOML has nan and inf: neither is a wait."""
    assert setting in told(sources, file=f"{setting} = {value}")


@pytest.mark.parametrize(("written", "kept"), [(",", ","), (";", ";"), ("tab", "\t"), ("\\t", "\t"), ("\t", "\t")])
def test_a_delimiter_is_one_character_or_tab(sources: Loader, written: str, kept: str) -> None:
    """A tab is hard to type: its name will do."""
    assert sources(flags={"delimiter": written}).delimiter == kept


@pytest.mark.parametrize("written", ["", ";;", '"', "a", "7", "\n", "comma"])
def test_what_separates_no_cells_is_refused(sources: Loader, written: str) -> None:
    """Several characters, quotes, line ends, letters and digits."""
    assert "--delimiter" in told(sources, flags={"delimiter": written})


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("limt = 3", ["limt: no such setting", "did you mean limit?"]),
        ('[lanes]\non_troubel = "hold"', ["lanes.on_troubel: no such setting", "did you mean on_trouble?"]),
        ("[lane]\nx = 1", ["lane: no such setting", "did you mean lanes?"]),
        ("colour = 1", ["colour: no such setting"]),
        ("Limit = 3", ["Limit: no such setting", "did you mean limit?"]),
        ("[Lanes]", ["Lanes: no such setting", "did you mean lanes?"]),
        ("secrets_dir = 1", ["secrets_dir: no such setting"]),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(sources: Loader, file: str, words: list[str]) -> None:
    """A typing mistake in the config file is told, with the key that was meant where one is close."""
    message = told(sources, file=file)
    for word in ("uploader.toml", *words):
        assert word in message


def test_an_unknown_key_of_a_table_in_the_environment_names_its_variable(sources: Loader) -> None:
    """A mistake in the environment is not blamed on a config file that is not there."""
    message = told(sources, environment={"UPLOADER_LANES__ON_TROUBEL": "hold"})
    assert "UPLOADER_LANES" in message
    assert "config file" not in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UPLOADER_LANES", "hold"),
        ("UPLOADER_PARAMETERS", "name=Q1"),
        ("UPLOADER_REPLIES__PROVES_NOT_APPENDED", "500,503"),
    ],
)
def test_a_table_in_the_environment_that_is_no_json_is_told(sources: Loader, variable: str, value: str) -> None:
    """A variable that should hold JSON and does not is a usage error that names it, no fault of ours."""
    assert variable.partition("__")[0] in told(sources, environment={variable: value})


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("spelling", [str, str.upper, str.title])
def test_a_secret_in_the_config_file_is_refused(sources: Loader, name: str, spelling: Callable[[str], str]) -> None:
    """Secrets come from the environment or the secrets folder; the message never repeats one."""
    message = told(sources, file=f'{spelling(name)} = "{SECRET}"')
    assert "uploader.toml" in message
    assert f"UPLOADER_{name.upper()}" in message
    assert SECRET not in message


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_read_and_never_shown(sources: Loader, name: str) -> None:
    """From environment and secrets folder alike, without the newline that editors add; no repr shows it."""
    source = sources(secrets={f"uploader_{name}": f"{SECRET}\n"})
    two = sources(environment={f"UPLOADER_{name.upper()}": SECRET})
    for settings in (source, two):
        assert getattr(settings, name).get_secret_value() == SECRET
        for shown in (repr(settings), str(settings), str(asdict(settings))):
            assert SECRET not in shown


def test_a_secret_that_is_no_text_is_told_without_it(sources: Loader, tmp_path: Path) -> None:
    """A secrets file that is no UTF-8 is a usage error that names the setting."""
    (tmp_path / "secrets" / "uploader_app_secret").write_bytes(b"\xff\xfe")
    assert "app_secret" in told(sources)


@pytest.mark.parametrize("content", [b"limit = ", b"\xff", b"limit = 1\nlimit = 2"])
def test_a_config_file_that_is_no_toml_is_told(sources: Loader, tmp_path: Path, content: bytes) -> None:
    """Broken TOML and broken UTF-8 are usage errors with the file's name."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.toml: no TOML"):
        load({}, path)


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_config_file_that_cannot_be_read_is_told(sources: Loader, tmp_path: Path, name: str) -> None:
    """A named config file that is missing or a folder is a usage error, not a run with the defaults."""
    with pytest.raises(UsageError, match=r"config file .*name one that can be read"):
        load({}, tmp_path / name)


def test_a_config_file_that_is_a_pipe_without_a_writer_is_told(
    sources: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by its name, and not waited for for ever."""
    monkeypatch.setattr("uploader.pipes.PIPE_SECONDS", 0.01)
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    with pytest.raises(UsageError, match=r"config file .*pipe\.toml: this is a pipe, and nobody writes to it"):
        load({}, path)


def test_a_config_file_without_an_end_is_told(sources: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is not read into memory for ever."""
    monkeypatch.setattr("uploader.settings.loading.MOST_CONFIG_BYTES", 1000)
    with pytest.raises(UsageError, match=r"config file /dev/zero: it has more than 1000 bytes"):
        load({}, Path("/dev/zero"))


def test_a_file_of_the_secrets_folder_that_cannot_be_read_is_told(sources: Loader, tmp_path: Path) -> None:
    """A folder in a setting's place is a usage error, and not the fault of a stream."""
    (tmp_path / "secrets" / "uploader_limit").mkdir()
    assert "uploader_limit: Is a directory: make it readable" in told(sources)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://api.symbl.ai", "https://api.symbl.ai"),
        ("https://api.symbl.ai/", "https://api.symbl.ai"),
        ("HTTPS://API.Symbl.AI:443/", "https://api.symbl.ai"),
        ("https://host:8443/base/", "https://host:8443/base"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://host/a b/ü/", "https://host/a%20b/%C3%BC"),
        ("https://host/a%20b/%C3%BC", "https://host/a%20b/%C3%BC"),
        ("https://host/50%/", "https://host/50%25"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_one_service_has_one_base_url(sources: Loader, value: str, kept: str) -> None:
    """Spellings of the same address are the same account: another spelling must not append anything again."""
    assert sources(flags={"base_url": value}).base_url == kept


@pytest.mark.parametrize(
    "value",
    [
        "",
        "api.symbl.ai",
        "ftp://api.symbl.ai",
        "https://",
        "http://api.symbl.ai",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "https://user:password@host",
        "https://user@host",
        "https://host/?a=b",
        "https://host/#a",
        "https://host:99999",
        "https://host:0",
        "http://127.0.0.1:0",
        "https://host:port",
        "https://[::1",
        "https://ho st",
        "https://host\x00",
        "https://\u200bhost..example",
    ],
)
def test_an_address_that_is_none_or_would_show_the_audio_is_refused(sources: Loader, value: str) -> None:
    """Only https, but for this machine itself, and nothing besides host, port and path."""
    assert "--base-url" in told(sources, flags={"base_url": value})


def test_settings_do_not_change(sources: Loader) -> None:
    """A setting that is loaded stays as it is."""
    settings = sources()
    with pytest.raises(FrozenInstanceError):
        settings.limit = 7  # type: ignore[misc]


def test_a_variable_far_from_all_of_ours_is_named(sources: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is warned of; those that exist, in any letter case, and other programs' are not."""
    ours = ("UPLOADER_LIMIT", "uploader_rate", "UPLOADER_LANES__ON_TROUBLE", "UPLOADER_CONFIG", "UPLOADER_LEDGER_FILE")
    for name in ("UPLOADER_QUUX", "UPLOADER_IMAGE", *ours, "OTHER"):
        monkeypatch.setenv(name, "x")
    assert unknown_environment() == ["UPLOADER_IMAGE", "UPLOADER_QUUX"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPLOADER_LIMT", "UPLOADER_LIMIT"),
        ("UPLOADER_LIMITS", "UPLOADER_LIMIT"),
        ("uploader_limt", "UPLOADER_LIMIT"),
        ("UPLOADER_APPID", "UPLOADER_APP_ID"),
        ("UPLOADER_APP_SECRET_FILES", "UPLOADER_APP_SECRET_FILE"),
        ("UPLOADER_ACESS_TOKEN", "UPLOADER_ACCESS_TOKEN"),
        ("UPLOADER_PARAMETER__MODE", "UPLOADER_PARAMETERS"),
        ("UPLOADER_LANES_ON_TROUBLE", "UPLOADER_LANES__ON_TROUBLE"),
        ("UPLOADER_BASEURL", "UPLOADER_BASE_URL"),
    ],
)
def test_a_variable_near_to_one_of_ours_is_an_error(
    sources: Loader, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    """A typing mistake would go unseen, and the night run with a default."""
    monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError, match=f"environment {name}: no such setting; did you mean {meant}"):
        unknown_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPLOADER_SERVICE_HOST", "10.0.0.1"),
        ("UPLOADER_SERVICE_PORT", "8080"),
        ("UPLOADER_SERVICE_PORT_HTTP", "8080"),
        ("UPLOADER_PORT", "tcp://10.0.0.1:8080"),
        ("UPLOADER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("UPLOADER_PORT_8080_TCP_PROTO", "tcp"),
        ("UPLOADER_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("UPLOADER_WEBHOOK_SERVICE_HOST", "10.0.0.1"),
        ("UPLOADER_WEBHOOK_SERVICE_PORT_WEB_TLS", "443"),
        ("UPLOADER_WEBHOOK_PORT", "tcp://10.0.0.1:443"),
        ("UPLOADER_WEBHOOK_PORT_443_TCP_PORT", "443"),
    ],
)
def test_what_a_cluster_sets_for_a_service_is_no_setting(
    sources: Loader, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A service that is called uploader has variables of its own: neither an error nor a warning."""
    monkeypatch.setenv(name, value)
    assert unknown_environment() == []


@pytest.mark.parametrize("says", ["nothing", "a path that is none"])
def test_without_a_home_folder_there_is_no_default_ledger(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """No HOME and no passwd entry: the default is empty, never a folder named ~ in the current one."""

    def state_path(_: str) -> Path:
        if says == "nothing":
            raise RuntimeError("could not determine the home directory")
        return Path("~/.local/state/uploader")

    monkeypatch.setattr("platformdirs.user_state_path", state_path)
    assert default_ledger() == ""
    with pytest.raises(UsageError, match="name one with --ledger"):
        ledger_path(Settings().ledger)


def test_a_programs_settings_are_checked_as_those_of_a_file() -> None:
    """A program gives keyword arguments, tables as mappings; all that does not fit is told at once, secrets are not."""
    settings = Settings(
        limit="10",  # type: ignore[arg-type]
        ledger="sqlite:////tmp/ledger.db",
        results="r.csv",  # type: ignore[arg-type]
        app_secret=SECRET,  # type: ignore[arg-type]
        lanes={"on_trouble": "continue"},  # type: ignore[arg-type]
    )
    assert (settings.limit, settings.results, settings.lanes.hold) == (10, Path("r.csv"), False)
    assert settings.app_secret is not None
    assert settings.app_secret.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    with pytest.raises(UsageError) as refused:
        Settings(limit=0, until="25:00", notify=f"ftp://{SECRET}", jobs={"polls": 1}, lanes={"on_trouble": "go"})  # type: ignore[arg-type]
    lines = str(refused.value).splitlines()
    assert sorted(line.partition(":")[0].partition(" ")[0] for line in lines) == [
        "jobs.polls",
        "lanes.on_trouble",
        "limit",
        "notify",
        "until",
    ]
    assert SECRET not in str(refused.value)
    with pytest.raises(TypeError):
        Settings(limits=3)  # type: ignore[call-arg]


def test_settings_that_were_checked_stand_as_they_are(sources: Loader) -> None:
    """What was loaded and is copied with a change is the same but for the change: a check converts once."""
    loaded = sources(
        environment={
            "UPLOADER_APP_SECRET": SECRET,
            "UPLOADER_RATE": "auto",
        },
        flags={"delimiter": "tab", "until": "6:00", "base_url": "https://example.com/%zz/", "limit": "7"},
        file='[replies]\nproves_not_appended = [500]\n[parameters]\nname = "x"\n[insights]\nonly = ["topics"]\n',
    )
    copied = replace(loaded, batch="b")
    assert replace(copied, batch=None) == loaded
    assert (copied.given, copied.rereads_credentials) == (loaded.given, True)
