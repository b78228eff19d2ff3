"""Every setting once, checked, with its unit in its name."""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from uploader import secrets
from uploader.errors import UsageError

DOCUMENTED_BASE_URL = "https://api.symbl.ai"
"""The service (put-audio.md, API Endpoint)."""
ENVIRONMENT_PREFIX = secrets.PREFIX
SECRETS = secrets.CREDENTIALS
"""Settings that come from the environment or from files of their own only: no flag, no config file."""


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write the service's address as https://HOST")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("write the address alone: no user, password, query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("http would show token and audio to the network: write https://")
    default_port = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port not in (None, default_port) else ""
    return urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), "", ""))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ledger(value: str) -> str:
    if not value.startswith("sqlite:///") or value in ("sqlite:///", "sqlite:///:memory:"):
        raise ValueError("write it as sqlite:////absolute/path/ledger.db")
    return value


def _delimiter(value: Any) -> Any:
    found = {"tab": "\t", "\\t": "\t"}.get(value, value) if isinstance(value, str) else value
    if not isinstance(found, str) or len(found) != 1 or found in '"\r\n\0\ufeff' or found.isalnum():
        raise ValueError("write the one character that separates the cells: , or ; or tab")
    return found


def default_ledger() -> str:
    """The ledger for who names none: one for all nights and manifests, in the user's state folder."""
    return f"sqlite:///{platformdirs.user_state_path('uploader') / 'ledger.db'}"


class Lanes(BaseModel):
    """``[lanes]``: what trouble in a conversation does to the rest of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_trouble: Literal["hold", "continue"] = Field(
        "hold",
        description="what an item that failed, is refused or in doubt does to the rest of its lane: hold it "
        "until a person has settled it, or continue without it",
    )

    @property
    def hold(self) -> bool:
        """Whether trouble holds the rest of a lane."""
        return self.on_trouble == "hold"


class Replies(BaseModel):
    """``[replies]``: what the operator vouches for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proves_not_appended: tuple[Literal[500, 503], ...] = Field(
        (),
        description="statuses that prove that nothing was appended, so that the item is tried again; your "
        "own promise: 500 and 503 are in doubt otherwise",
    )


class Doubt(BaseModel):
    """``[doubt]``: what evidence is kept and taken for items in doubt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    look_before: bool = Field(
        False,
        description="look at the conversation before every attempt (one GET an item), so that `uploader resolve "
        "--look` can compare",
    )
    settle: Literal["person", "look"] = Field(
        "person",
        description="who settles doubt: a person alone, or also a look, where what it shows proves the append",
    )


class Jobs(BaseModel):
    """``[jobs]``: how live jobs are followed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polls_per_second: float = Field(5.0, gt=0, le=1000, description="status requests per second, for the whole account")


class Insights(BaseModel):
    """``[insights]``: what `uploader insights` fetches, and how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: float = Field(
        5.0, gt=0, le=1000, description="requests per second, for all conversations together"
    )
    only: tuple[str, ...] = Field((), description="the parts that are fetched; none named: all of them")


class Schedule(BaseModel):
    """``[schedule]``: what a plan assumes as long as nothing was seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_seconds_per_audio_second: float = Field(
        0.5,
        gt=0,
        le=1000,
        description="what `uploader plan` takes a job to last for a second of audio, until the ledger has seen some",
    )
    audio_bytes_per_second: float = Field(
        16000.0,
        gt=0,
        description="what `uploader plan` takes a second of audio to hold where no file's length is known, in bytes",
    )


Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


def option(
    default: Any,
    *,
    meaning: str,
    commands: str,
    metavar: str | None = None,
    **constraints: Any,
) -> Any:
    """A setting that is also a flag of the commands named in ``commands`` (words, apart by spaces)."""
    extra: dict[str, Any] = {"commands": commands.split(), "metavar": metavar}
    given = {"default_factory": default} if callable(default) else {"default": default}
    return Field(description=meaning, json_schema_extra=extra, **given, **constraints)


class Settings(BaseSettings):
    """All settings of the uploader; ``config/uploader.toml`` shows each with its default."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    ledger: Annotated[str, AfterValidator(_ledger)] = option(
        default_ledger,
        metavar="URL",
        commands="run plan status results resolve insights",
        meaning="the durable memory of what was appended, as sqlite:////path; one for all nights and manifests",
    )
    batch: str | None = option(
        None,
        metavar="NAME",
        commands="run plan status results resolve insights",
        min_length=1,
        meaning="the batch's name (run: the manifest's file name; status, results, insights: the batch that ran last)",
    )
    results: Path | None = option(
        None,
        metavar="FILE",
        commands="run results",
        meaning="the results file, CSV or JSON Lines by its ending .csv or .jsonl (MANIFEST.results.csv)",
    )
    summary: Path | None = option(
        None,
        metavar="FILE",
        commands="run",
        meaning="the closing summary as JSON, written after the final results: if it stands, they are final",
    )
    base_url: Annotated[str, AfterValidator(_base_url)] = option(
        DOCUMENTED_BASE_URL,
        metavar="URL",
        commands="run plan insights",
        meaning="the service; https unless it is on this machine",
    )
    app_id: SecretStr | None = Field(None, description="the application's id, for a token")
    app_secret: SecretStr | None = Field(None, description="the application's secret, for a token")
    access_token: SecretStr | None = Field(None, description="a ready token, in place of id and secret")
    limit: int = option(2, metavar="N", commands="run plan", ge=1, le=100_000, meaning="the account's concurrent jobs")
    uploads: int = option(
        16, metavar="N", commands="run", ge=1, le=1000, meaning="uploads at once, never above the limit"
    )
    rate: float = option(10.0, metavar="N", commands="run", gt=0, le=100_000, meaning="PUT requests started per second")
    audio_root: Path | None = option(
        None,
        metavar="DIR",
        commands="run plan",
        meaning="where relative audio paths start, and which no path may leave (the manifest's folder, unconfined)",
    )
    format: Literal["csv", "jsonl"] | None = option(
        None,
        metavar="csv|jsonl",
        commands="run plan",
        meaning="the manifest's format (by its ending; needed for standard input, -)",
    )
    delimiter: Annotated[str, BeforeValidator(_delimiter)] = option(
        ",",
        metavar="CHARACTER",
        commands="run plan",
        meaning="what separates the cells of a CSV manifest: one character, or tab",
    )
    on_invalid: Literal["refuse", "skip"] = option(
        "refuse",
        metavar="refuse|skip",
        commands="run plan",
        meaning="refuse a manifest with invalid rows as a whole, or leave them out: they are refused and hold "
        "the rest of their conversation",
    )
    repeat: bool = option(False, commands="run", meaning="append everything once more, what was appended too")
    first: int | None = option(
        None,
        metavar="N",
        commands="run",
        ge=1,
        meaning="a trial: only the first N pending items of the batch, in its order; the others stay pending (exit 6)",
    )
    until: str | None = option(
        None,
        metavar="HH:MM",
        commands="run plan",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        meaning="nothing new starts after the next HH:MM of this machine's clock; the rest stays pending (exit 6)",
    )
    max_billed_minutes: float | None = option(
        None,
        metavar="N",
        commands="run plan",
        ge=0,
        meaning="refuse a manifest of which more audio than this is still to be appended, in billed minutes",
    )
    no_wait: bool = option(
        False, commands="run", meaning="end once every item is accepted, without waiting for the last jobs"
    )
    sandbox: bool = option(
        False,
        commands="run",
        meaning="append to a sandbox inside, with a ledger that is thrown away: a rehearsal that sends nothing out",
    )
    progress: Literal["auto", "off"] = option(
        "auto",
        metavar="auto|off",
        commands="run",
        meaning="the progress bar (or a line a minute without terminal)",
    )
    log_format: Literal["auto", "text", "json"] = option(
        "auto",
        metavar="auto|text|json",
        commands="run plan status results resolve insights sandbox",
        meaning="logs on standard error: text on a terminal, else JSON lines",
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info",
        metavar="LEVEL",
        commands="run plan status results resolve insights sandbox",
        meaning="the least level that is logged: debug, info, warning or error",
    )
    give_up_seconds: Seconds = option(
        1800.0, metavar="S", commands="run insights", meaning="end the run after so long without a good answer"
    )
    doubt_seconds: Seconds = option(
        900.0,
        metavar="S",
        commands="run",
        meaning="how long an item in doubt keeps its slot as long as no job has shown how long jobs take",
    )
    job_timeout_seconds: Seconds = option(
        21600.0, metavar="S", commands="run", meaning="how long a job may take before its end is not waited for"
    )
    connect_seconds: Seconds = option(
        30.0, metavar="S", commands="run insights", meaning="time limit to connect to the service, TLS included"
    )
    stall_seconds: Seconds = option(
        60.0, metavar="S", commands="run", meaning="time limit for an upload of which no byte moves"
    )
    answer_seconds: Seconds = option(
        300.0, metavar="S", commands="run", meaning="time limit for the answer once the last chunk has left"
    )
    grace_seconds: float = option(
        8.0,
        metavar="S",
        commands="run",
        ge=0,
        le=3600,
        meaning="how long uploads may go on after the first SIGTERM or SIGINT",
    )
    max_attempts: int = option(
        10,
        metavar="N",
        commands="run",
        ge=1,
        le=1000,
        meaning="uploads of one item that may be cut off before it is refused",
    )
    parameters: Mapping[str, Any] = Field(
        default_factory=dict, description="query parameters for every row that does not set them itself"
    )
    extra_parameters: Mapping[str, Any] = Field(
        default_factory=dict, description="query parameters that the uploader does not know, sent as they are"
    )
    lanes: Lanes = Field(default_factory=Lanes, description="what trouble does to a lane")
    replies: Replies = Field(default_factory=Replies, description="what the operator vouches for")
    doubt: Doubt = Field(default_factory=Doubt, description="what evidence is kept for items in doubt")
    jobs: Jobs = Field(default_factory=Jobs, description="how live jobs are followed")
    schedule: Schedule = Field(default_factory=Schedule, description="what a plan assumes")
    insights: Insights = Field(default_factory=Insights, description="what insights are fetched, and how fast")

    _file: str = PrivateAttr("config file")

    @property
    def file(self) -> str:
        """What to call the config file in an error."""
        return self._file

    @property
    def summary_is_served(self) -> bool:
        """Whether the base URL is the one that put-audio.md asks for with enableSummary."""
        return self.base_url == DOCUMENTED_BASE_URL

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag over environment over secrets folder over file (the file comes in by ``load``)."""
        return (
            init_settings,
            _from_files(settings_cls),
            env_settings,
            file_secret_settings,
            TomlConfigSettingsSource(settings_cls),
        )


def load(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """Put the settings together: flag over environment over secrets folder over file over default.

    Args:
        flags: What the command line set, by the setting's name.
        config: The config file, None for none.

    Raises:
        UsageError: A value that does not fit, an unknown key, a file that cannot be read; the text names
            the source, the setting, the value and the remedy.
    """
    passed_over = _check_file(config) if config is not None else []
    _check_ledger_address(flags.get("ledger"), "--ledger")
    try:
        folder = secrets.folder(os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from error

    class FromFile(Settings):
        # pydantic-settings takes the file's path from the class
        model_config = SettingsConfigDict(toml_file=config)

    told = [f"config file {config}: {name}: no such setting{_close_to([name])}" for name in passed_over]
    try:
        settings = FromFile(_secrets_dir=folder, **flags)
        settings._file = f"config file {config}" if config is not None else "environment"  # noqa: SLF001 - our own
    except ValidationError as error:
        told += [_tell(dict(one), flags, config, folder) for one in error.errors()]
    except SettingsError as error:
        raise UsageError(_tell_unreadable(str(error), error.__cause__, folder)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"secrets folder {folder}: a file in it is no UTF-8 text: {error.reason}") from None
    else:
        if not told:
            return settings
    raise UsageError("\n".join(told))


def _from_files(settings: type[BaseSettings]) -> InitSettingsSource:
    """What environment and files say of the settings that files of their own may hold."""
    try:
        return InitSettingsSource(settings, secrets.find(secrets.FROM_FILES, os.environ))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_ledger_address(address: Any, source: str) -> None:
    """A password on the command line is seen by everybody on the machine; a config file is shown around, too."""
    if isinstance(address, str) and secrets.has_password(address):
        raise UsageError(
            f"{source}: ledger = {secrets.without_login(address)!r}: a password has no place there: set "
            "UPLOADER_LEDGER in the environment, or name a file with the address in UPLOADER_LEDGER_FILE"
        )


def _tell_unreadable(message: str, cause: BaseException | None, folder: Path | None) -> str:
    """Say which value could not be read at all; a secret's is never repeated."""
    found = re.search(r'field "(\w+)"', message)
    name = found[1] if found else "a setting"
    if "Secrets" in message:
        return f"secrets folder {folder}: {name}: this cannot be read: write it as UTF-8 text"
    return f"environment {ENVIRONMENT_PREFIX}{name.upper()}: this is no JSON: {cause}"


def _check_file(path: Path) -> list[str]:
    """Check what pydantic-settings would not: that the file is TOML, has no secrets; the keys it passes over."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config file {path}: {error.strerror}: name one that can be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path}: no TOML: {error}") from error
    _check_ledger_address(table.get("ledger"), f"config file {path}")
    for name in table:
        if name.lower() in SECRETS:
            raise UsageError(
                f"config file {path}: {name}: secrets do not belong in a config file: set "
                f"{ENVIRONMENT_PREFIX}{name.upper()} or put it into the secrets folder"
            )
    return [name for name in table if name not in Settings.model_fields and name.lower() in Settings.model_fields]


def _tell(error: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None, folder: Path | None) -> str:
    location: Sequence[str] = [str(part) for part in error["loc"]]
    name = location[0]
    where = f"{_source(location, flags, config, folder)}: {'.'.join(location)}"
    if error["type"] == "extra_forbidden" and len(location) == 1:
        return f"config file {config}: {name}: no such setting{_close_to(location)}"  # nowhere else can one stand
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting{_close_to(location)}"
    value = "" if name in SECRETS else f" = {secrets.without_login(repr(error['input']))}"
    return f"{where}{value}: {str(error['msg']).removeprefix('Value error, ')}"


def _close_to(location: Sequence[str]) -> str:
    known = set(Settings.model_fields)
    if len(location) > 1:
        table = Settings.model_fields[location[0]].annotation
        known = set(getattr(table, "model_fields", {}))
    close = difflib.get_close_matches(location[-1].lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _source(location: Sequence[str], flags: Mapping[str, Any], config: Path | None, folder: Path | None) -> str:
    """Where a setting's value came from, looked for in the order of rank."""
    name = location[0]
    if name in flags:
        return f"--{name.replace('_', '-')}"
    variables = {ENVIRONMENT_PREFIX + name.upper(), ENVIRONMENT_PREFIX + "__".join(location).upper()}
    if variables & {variable.upper() for variable in os.environ}:
        return f"environment {ENVIRONMENT_PREFIX}{name.upper()}"
    secret = (ENVIRONMENT_PREFIX + name).lower()
    if name in secrets.FROM_FILES and os.environ.get(secrets.variable(name) + "_FILE"):
        return f"environment {secrets.variable(name)}_FILE"
    if folder is not None and any(file.name.lower() == secret for file in folder.iterdir()):
        return f"secrets folder {folder}"
    return f"config file {config}"


def unknown_environment() -> list[str]:
    """Variables that look like ours and are none: a typing mistake that would go unseen."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    known |= {secrets.variable(name) + "_FILE" for name in secrets.FROM_FILES}
    known |= {"UPLOADER_CONFIG", secrets.FOLDER_VARIABLE, "UPLOADER_JSON"}
    return sorted(
        name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name.split("__")[0] not in known
    )
