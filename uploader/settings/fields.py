"""All settings with their defaults, bounds and meanings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from uploader import secrets
from uploader.errors import UsageError
from uploader.settings.addresses import (
    DOCUMENTED_BASE_URL,
    default_ledger,
    delimiter_of,
    ledger_address,
    listening_address,
    notified_address,
    public_address,
    service_address,
    time_of_day,
)
from uploader.settings.checks import (
    Secret,
    auto_or,
    choice,
    mapping,
    number,
    path,
    secret,
    secret_as,
    some_text,
    switch,
    text_as,
    whole_number,
)
from uploader.settings.tables import (
    DEFAULT_ACCOUNT,
    Account,
    Doubt,
    Insights,
    Jobs,
    Lanes,
    Replies,
    Schedule,
    fit,
    setting,
    settings_of,
    table,
    tables,
)

ENVIRONMENT_PREFIX = secrets.PREFIX
# settings that come from the environment or from secret files alone: no flag, no config file
SECRETS = (*secrets.CREDENTIALS, *secrets.OTHERS)

# the headings of the options in the help; those that matter first have none
LEDGER = "A new ledger"
MANIFEST = "The manifest, and how much of it is sent"
TOLD = "Status, notifications and logs"
PACE = "Pace and connections"
TIME = "Limits of time and of attempts"
FAR = "A far sandbox"

seconds = number(above=0, most=7 * 86400)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of the uploader; ``config/uploader.toml`` lists each with its default.

    A program gives its own as keyword arguments: ``Settings(limit=10, lanes={"on_trouble": "continue"})``.

    Raises:
        UsageError: Values do not fit; the text has a line for each, with its remedy.
    """

    ledger: str = setting(
        text_as(ledger_address),
        default_ledger,
        metavar="URL",
        commands="run work serve plan status results report resolve insights ledger adopt doctor",
        meaning="the durable memory of all appends, as sqlite:////path or postgresql://HOST/DATABASE; one for all "
        "nights and manifests",
    )
    ledger_must_exist: bool = setting(
        switch,
        False,
        commands="run serve doctor",
        group=LEDGER,
        meaning="refuse to make a ledger where there is none: for every night but the first",
    )
    new_ledger: bool = setting(
        switch,
        False,
        commands="run serve doctor adopt",
        group=LEDGER,
        meaning="make a ledger even on a container's own file system, which goes with the container",
    )
    batch: str | None = setting(
        some_text,
        None,
        metavar="NAME",
        commands="run plan status results report resolve insights adopt",
        meaning="the batch's name (run: the manifest's file name; results, report, insights: the latest; else: all)",
    )
    last: int = setting(
        whole_number(least=0, most=1_000_000),
        10,
        metavar="N",
        commands="status",
        meaning="the number of latest batches that are shown below those that are not over",
    )
    results: Path | None = setting(
        path,
        None,
        metavar="FILE",
        commands="run results doctor",
        meaning="the results file, CSV or JSON Lines by its ending .csv or .jsonl (MANIFEST.results.csv)",
    )
    summary: Path | None = setting(
        path,
        None,
        metavar="FILE",
        commands="run doctor",
        group=TOLD,
        meaning="the closing summary as JSON, written after the final results: its presence means that they are final",
    )
    metrics: Path | None = setting(
        path,
        None,
        metavar="FILE",
        commands="run work serve doctor",
        group=TOLD,
        meaning="the run's figures as a Prometheus text file, replaced as a whole while the run goes on and at its end",
    )
    notify: Secret | None = setting(
        secret_as(notified_address),
        None,
        metavar="URL",
        commands="run work serve",
        group=TOLD,
        meaning="POST the summary to this https address at the end, and when something first needs a person; it may "
        "have a secret in it, and is never shown: rather set UPLOADER_NOTIFY, as others see the command line",
    )
    base_url: str = setting(
        text_as(service_address),
        DOCUMENTED_BASE_URL,
        metavar="URL",
        commands="run work serve plan resolve insights adopt doctor",
        meaning="the service; https unless it is on this machine",
    )
    app_id: Secret | None = setting(secret, None, meaning="the application's id, for a token")
    app_secret: Secret | None = setting(secret, None, meaning="the application's secret, for a token")
    access_token: Secret | None = setting(secret, None, meaning="a ready token, in place of id and secret")
    limit: int = setting(
        whole_number(least=1, most=100_000),
        2,
        metavar="N",
        commands="run work serve plan",
        meaning="the account's concurrent jobs",
    )
    uploads: int | Literal["auto"] = setting(
        auto_or(whole_number(least=1, most=1000)),
        "auto",
        metavar="N|auto",
        commands="run work serve",
        group=PACE,
        meaning="uploads under way at once; auto: as many as keep the slots full within the memory, at most 64",
    )
    rate: float | Literal["auto"] = setting(
        auto_or(number(above=0, most=100_000)),
        "auto",
        metavar="N|auto",
        commands="run work serve",
        group=PACE,
        meaning="PUT requests started per second; auto: 10, or as many as the limit and the jobs' seconds ask for",
    )
    send_ahead: Literal["auto", "off"] = setting(
        choice("auto", "off"),
        "auto",
        metavar="auto|off",
        commands="run work serve",
        group=PACE,
        meaning="auto: bodies go out before their slot is free, and only the last chunk waits for it; off: they do not",
    )
    ahead_seconds: float = setting(
        seconds,
        20.0,
        metavar="S",
        commands="run work serve",
        group=PACE,
        meaning="how long a body that was sent ahead waits for its slot before the uploader cuts it and sends it later",
    )
    audio_root: Path | None = setting(
        path,
        None,
        metavar="DIR",
        commands="run work serve plan adopt manifest",
        meaning="the base of relative audio paths, which no path may leave (the manifest's folder, unconfined)",
    )
    format: Literal["csv", "jsonl"] | None = setting(
        choice("csv", "jsonl"),
        None,
        metavar="csv|jsonl",
        commands="run plan adopt manifest",
        group=MANIFEST,
        meaning="the manifest's format (by its ending; needed for standard input, -)",
    )
    delimiter: str = setting(
        text_as(delimiter_of),
        ",",
        metavar="CHARACTER",
        commands="run serve plan adopt manifest",
        group=MANIFEST,
        meaning="the delimiter of a CSV manifest: one character, or tab",
    )
    pattern: str = setting(
        some_text,
        "{conversationId}/**",
        metavar="PATTERN",
        commands="manifest",
        meaning="the paths of the recordings in a folder: {conversationId}, {} and * stand for a part of a name, ** "
        "for folders, {COLUMN} for a column, {COLUMN:REGEX} for what matches",
    )
    on_invalid: Literal["refuse", "skip"] = setting(
        choice("refuse", "skip"),
        "refuse",
        metavar="refuse|skip",
        commands="run serve plan",
        meaning="refuse a manifest with invalid rows as a whole, or leave them out: they are refused and hold "
        "the rest of their conversation",
    )
    repeat: bool = setting(
        switch,
        False,
        commands="run plan",
        meaning="append everything once more, appended items included",
        group=MANIFEST,
    )
    first: int | None = setting(
        whole_number(least=1, most=1_000_000_000),
        None,
        metavar="N",
        commands="run plan",
        meaning="a trial: only the first N pending items of the batch, in its order; the others stay pending (exit 6)",
    )
    until: str | None = setting(
        text_as(time_of_day),
        None,
        metavar="HH:MM",
        commands="run work plan",
        group=MANIFEST,
        meaning="nothing new starts after the next HH:MM of this machine's clock; the rest stays pending (exit 6)",
    )
    max_billed_minutes: float | None = setting(
        number(least=0),
        None,
        metavar="N",
        commands="run serve plan",
        group=MANIFEST,
        meaning="refuse a manifest of which more audio than this is still to be appended, in billed minutes",
    )
    no_wait: bool = setting(
        switch,
        False,
        commands="run serve",
        group=MANIFEST,
        meaning="end once every item is accepted, without waiting for the last jobs",
    )
    sandbox: bool = setting(
        switch,
        False,
        commands="run",
        meaning="append to an internal sandbox with a temporary ledger: a rehearsal that sends nothing out",
    )
    round_trip: float = setting(
        number(least=0, most=3600),
        0.0,
        metavar="S",
        commands="run sandbox",
        group=FAR,
        meaning="the round trip to the sandbox: every byte takes half of it",
    )
    uplink: int = setting(
        whole_number(least=0),
        0,
        metavar="N",
        commands="run sandbox",
        group=FAR,
        meaning="bytes per second that each connection carries to the sandbox (0: no bound)",
    )
    counts_uploads: bool = setting(
        switch,
        False,
        commands="run sandbox",
        group=FAR,
        meaning="an upload under way counts as a job from its head on, and is answered 429 there; without it the limit "
        "is held against the jobs once a body has come",
    )
    idle_cut: float = setting(
        number(least=0),
        0.0,
        metavar="S",
        commands="run sandbox",
        group=FAR,
        meaning="a gateway cuts connections that are idle for this time in the middle of a body (0: never)",
    )
    webhook: str | None = setting(
        text_as(listening_address),
        None,
        metavar="HOST:PORT",
        commands="run work serve",
        group=TOLD,
        meaning="the address to listen on for the service's callbacks; needs --webhook-url (none: polling alone)",
    )
    webhook_url: str | None = setting(
        text_as(public_address),
        None,
        metavar="URL",
        commands="run work serve",
        group=TOLD,
        meaning="the public http or https address of that listener, as the service reaches it",
    )
    status: str | None = setting(
        text_as(listening_address),
        None,
        metavar="HOST:PORT",
        commands="run work serve",
        group=TOLD,
        meaning="the address to serve the status page on, with /metrics, /healthz and /readyz; on any but this "
        "machine's own (127.0.0.1) UPLOADER_STATUS_TOKEN has to be set (none: no page)",
    )
    status_token: Secret | None = setting(
        secret, None, meaning="the token, or password, that the status page asks its readers for"
    )
    progress: Literal["auto", "off"] = setting(
        choice("auto", "off"),
        "auto",
        metavar="auto|off",
        commands="run work serve",
        group=TOLD,
        meaning="the live lines on a terminal (elsewhere a line a minute in the log)",
    )
    log_format: Literal["auto", "text", "json"] = setting(
        choice("auto", "text", "json"),
        "auto",
        metavar="auto|text|json",
        commands="run work serve plan status results report resolve insights ledger adopt doctor manifest sandbox",
        group=TOLD,
        meaning="logs on standard error: text on a terminal, else JSON lines",
    )
    log_level: Literal["auto", "debug", "info", "warning", "error"] = setting(
        choice("auto", "debug", "info", "warning", "error"),
        "auto",
        metavar="LEVEL",
        commands="run work serve plan status results report resolve insights ledger adopt doctor manifest sandbox",
        group=TOLD,
        meaning="the least level that is logged: debug, info, warning or error; auto: warning on a terminal, else info",
    )
    log_file: Path | None = setting(
        path,
        None,
        metavar="FILE",
        commands="run work serve plan status results report resolve insights ledger adopt doctor manifest sandbox",
        group=TOLD,
        meaning="write the log to this file as well, as JSON lines from level info on (or from --log-level)",
    )
    give_up_seconds: float = setting(
        seconds,
        1800.0,
        metavar="S",
        commands="run work serve insights",
        group=TIME,
        meaning="end the run after this time without a good answer",
    )
    ledger_away_seconds: float = setting(
        seconds,
        300.0,
        metavar="S",
        commands="run work serve",
        group=TIME,
        meaning="end the run after this time in which the ledger's PostgreSQL server is away",
    )
    doubt_seconds: float = setting(
        seconds,
        900.0,
        metavar="S",
        commands="run work serve",
        group=TIME,
        meaning="the time that an item in doubt keeps its slot while no finished job shows how long jobs take",
    )
    job_timeout_seconds: float = setting(
        seconds,
        21600.0,
        metavar="S",
        commands="run work serve",
        group=TIME,
        meaning="the longest time that the end of a job is waited for",
    )
    settle_seconds: float = setting(
        number(least=0, most=86400),
        5.0,
        metavar="S",
        commands="serve",
        group=TIME,
        meaning="the time for which a manifest in the inbox has to be unchanged before it is taken",
    )
    connect_seconds: float = setting(
        seconds,
        30.0,
        metavar="S",
        commands="run work serve insights doctor",
        group=TIME,
        meaning="time limit to connect to the service, TLS included",
    )
    stall_seconds: float = setting(
        seconds,
        60.0,
        metavar="S",
        commands="run work serve",
        meaning="time limit for an upload of which no byte moves",
        group=TIME,
    )
    answer_seconds: float = setting(
        seconds,
        300.0,
        metavar="S",
        commands="run work serve",
        group=TIME,
        meaning="time limit for the answer once the last chunk has left",
    )
    expect_above_bytes: int = setting(
        whole_number(least=0),
        1_048_576,
        metavar="N",
        commands="run work serve",
        group=PACE,
        meaning="bodies above this size wait for 100 Continue, so that a refusal costs no upload",
    )
    expect_seconds: float = setting(
        seconds,
        2.0,
        metavar="S",
        commands="run work serve",
        group=PACE,
        meaning="time limit for 100 Continue: then the body is sent without it, and few others wait",
    )
    connections: Literal["kept", "fresh"] = setting(
        choice("kept", "fresh"),
        "kept",
        metavar="kept|fresh",
        commands="run work serve",
        group=PACE,
        meaning="kept: where the service sends 100 Continue, connections are reused, and short bodies wait for it, "
        "too; fresh: each upload has a new one",
    )
    grace_seconds: float = setting(
        number(least=0, most=3600),
        8.0,
        metavar="S",
        commands="run work serve",
        group=TIME,
        meaning="the time that uploads may go on after the first SIGTERM, SIGINT or SIGHUP",
    )
    max_attempts: int = setting(
        whole_number(least=1, most=1000),
        10,
        metavar="N",
        commands="run work serve",
        group=TIME,
        meaning="uploads of one item that may be cut off before it is refused",
    )
    parameters: Mapping[str, Any] = setting(
        mapping, dict, meaning="query parameters for every row that does not set them itself"
    )
    extra_parameters: Mapping[str, Any] = setting(
        mapping, dict, meaning="query parameters that the uploader does not know, sent unchanged"
    )
    accounts: Mapping[str, Account] = tables(
        Account, meaning="further accounts, each with its own credentials, base URL and limit"
    )
    lanes: Lanes = table(Lanes, meaning="the effect of a failure on the rest of its lane")
    replies: Replies = table(Replies, meaning="the operator's own guarantees about answers")
    doubt: Doubt = table(Doubt, meaning="evidence kept and accepted for items in doubt")
    jobs: Jobs = table(Jobs, meaning="the polling of live jobs")
    schedule: Schedule = table(Schedule, meaning="the order of lanes, and the assumptions of a plan")
    insights: Insights = table(Insights, meaning="the parts that `uploader insights` fetches, and its rate")

    # the config file's name, for messages
    file: str = field(default="settings", compare=False)
    # the config file itself, for the commands that a person is told to type; None: there is none
    config: Path | None = field(default=None, compare=False)
    # the account that these settings are of; empty: the one above all tables
    account: str = field(default="")
    # the settings that some source gave
    given: frozenset[str] = field(default=frozenset(), compare=False)
    # names the flag, variable or file that gave a setting, for messages; of one in a table, after the table's names
    source: Callable[..., str] = field(default=lambda *names: ".".join(names), compare=False)
    # the credentials are read from environment and files again for every token, as they may be rotated there
    rereads_credentials: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Check and convert what differs from the defaults."""
        wrong: list[str] = []
        values = {name: getattr(self, name) for name in settings_of(Settings)}
        own = {name: value for name, value in values.items() if value != _default(name)}
        for name, value in fit(Settings, own, wrong).items():
            object.__setattr__(self, name, value)
        if wrong:
            raise UsageError("\n".join(wrong))
        if not self.given:
            object.__setattr__(self, "given", frozenset(own))

    @property
    def account_name(self) -> str:
        """The name, in the ledger, of the account that these settings are of."""
        return self.account or DEFAULT_ACCOUNT

    @property
    def of_accounts(self) -> "list[Settings]":
        """The settings of each account, of the one above all tables first."""
        return [self.of_account(name) for name in ("", *self.accounts)]

    def of_account(self, name: str) -> "Settings":
        """Return the settings of one account: its own where it has any, these where it has none.

        Its credentials are its own alone.

        Args:
            name: Its name in ``accounts``; empty, or ``default``: the one above all tables.
        """
        if name in ("", DEFAULT_ACCOUNT):
            return self
        own = self.accounts[name]
        return replace(
            self,
            account=name,
            base_url=own.base_url or self.base_url,
            limit=own.limit or self.limit,
            app_id=own.app_id,
            app_secret=own.app_secret,
            access_token=own.access_token,
        )

    @property
    def puts_per_second(self) -> float:
        """The rate that a forecast reckons with; where it follows the account, it holds nothing back."""
        return inf if self.rate == "auto" else self.rate

    @property
    def summary_is_served(self) -> bool:
        """True where the base URL is the one that put-audio.md demands for enableSummary."""
        return self.base_url == DOCUMENTED_BASE_URL


def _default(name: str) -> Any:
    default = settings_of(Settings)[name].default
    return default() if callable(default) else default
