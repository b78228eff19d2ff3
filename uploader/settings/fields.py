"""The settings, each with its default, its bounds and its meaning."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from uploader import secrets
from uploader.errors import UsageError
from uploader.settings.addresses import (
    DOCUMENTED_BASE_URL,
    default_ledger,
    delimiter_of,
    ledger_address,
    listening_address,
    public_address,
    service_address,
    time_of_day,
)
from uploader.settings.tables import Doubt, Insights, Jobs, Lanes, Replies, Schedule

ENVIRONMENT_PREFIX = secrets.PREFIX
SECRETS = secrets.CREDENTIALS
"""Settings that come from the environment or from files of their own only: no flag, no config file."""


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

    ledger: Annotated[str, AfterValidator(ledger_address)] = option(
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
    base_url: Annotated[str, AfterValidator(service_address)] = option(
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
    delimiter: Annotated[str, BeforeValidator(delimiter_of)] = option(
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
        commands="run plan",
        ge=1,
        le=1_000_000_000,
        meaning="a trial: only the first N pending items of the batch, in its order; the others stay pending (exit 6)",
    )
    until: Annotated[str, AfterValidator(time_of_day)] | None = option(
        None,
        metavar="HH:MM",
        commands="run plan",
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
    webhook: Annotated[str, AfterValidator(listening_address)] | None = option(
        None,
        metavar="HOST:PORT",
        commands="run",
        meaning="listen here for what the service says of jobs; needs --webhook-url (none: jobs are polled alone)",
    )
    webhook_url: Annotated[str, AfterValidator(public_address)] | None = option(
        None,
        metavar="URL",
        commands="run",
        meaning="the public http or https address of that listener, as the service reaches it",
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
    expect_above_bytes: int = option(
        1_048_576,
        metavar="N",
        commands="run",
        ge=0,
        meaning="bodies above this size wait for the service's leave (Expect: 100-continue), so that a refusal costs "
        "no upload",
    )
    expect_seconds: Seconds = option(
        2.0,
        metavar="S",
        commands="run",
        meaning="time limit for that leave: then the body is sent all the same, and few more wait",
    )
    connections: Literal["kept", "fresh"] = option(
        "kept",
        metavar="kept|fresh",
        commands="run",
        meaning="kept: where the service gives leave for bodies, connections are used again, and short bodies wait for "
        "leave, too; fresh: each upload has a new one",
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
    schedule: Schedule = Field(default_factory=Schedule, description="which lane goes first, and what a plan assumes")
    insights: Insights = Field(default_factory=Insights, description="what insights are fetched, and how fast")

    _file: str = PrivateAttr("config file")
    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> str:
        """What to call the config file in an error."""
        return self._file

    def source(self, name: str) -> str:
        """What to call the place where a setting was given, in an error: a flag, a variable, a file."""
        return self._sources.get(name, name)

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


def _from_files(settings: type[BaseSettings]) -> InitSettingsSource:
    """What environment and files say of the settings that files of their own may hold."""
    try:
        return InitSettingsSource(settings, secrets.find(secrets.FROM_FILES, os.environ))
    except ValueError as error:
        raise UsageError(str(error)) from error
