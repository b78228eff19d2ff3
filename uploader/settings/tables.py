"""The setting as a dataclass field, and the tables of settings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from uploader import secrets
from uploader.settings.addresses import service_address
from uploader.settings.checks import (
    Check,
    Secret,
    UnfitError,
    auto_or,
    choice,
    listing,
    mapping,
    number,
    secret,
    switch,
    text,
    text_as,
    whole_number,
)

# the name, in the ledger and in a manifest, of the account that is set above all tables
DEFAULT_ACCOUNT = "default"
_ACCOUNT = re.compile("[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class Setting(NamedTuple):
    """A setting's check, default and meaning.

    ``commands`` have it as a flag, with ``metavar`` for its value in their help. ``table`` is the dataclass of a table.
    """

    check: Check
    default: Any
    meaning: str
    commands: Sequence[str] = ()
    metavar: str | None = None
    group: str = "Options"
    table: type[Any] | None = None
    # the dataclass of each table of a table of tables
    tables: type[Any] | None = None


def setting(
    check: Check, default: Any, *, meaning: str, commands: str = "", metavar: str | None = None, group: str = "Options"
) -> Any:
    """Make the field of a setting, a flag of the space-separated ``commands``.

    A callable default is called each time.
    """
    kept = {"setting": Setting(check, default, meaning, commands.split(), metavar, group)}
    if callable(default):
        return field(default_factory=default, metadata=kept)
    return field(default=default, metadata=kept)


def table(kind: type[Any], *, meaning: str) -> Any:
    """Make the field of a table of settings."""
    return field(default_factory=kind, metadata={"setting": Setting(mapping, kind, meaning, table=kind)})


def tables(kind: type[Any], *, meaning: str) -> Any:
    """Make the field of a table of tables, each with a name that a person gives."""
    return field(default_factory=dict, metadata={"setting": Setting(mapping, dict, meaning, tables=kind)})


def settings_of(kind: type[Any]) -> dict[str, Setting]:
    """Return the settings of a dataclass by name, in order."""
    return {field.name: field.metadata["setting"] for field in fields(kind) if "setting" in field.metadata}


def check_name(name: str, others: Iterable[str]) -> None:
    """Check an account's name, which stands in variables and in cells of a manifest.

    Raises:
        UnfitError: It has other characters, or cannot be told from another name there.
    """
    if _ACCOUNT.fullmatch(name) is None:
        raise UnfitError("an account's name has letters, digits, - and _ alone, 64 at most: rename it", name)
    if name.lower() == DEFAULT_ACCOUNT:
        raise UnfitError("rows that name no account have the one above all tables: set it there, or rename this", name)
    for other in others:
        if secrets.normalised(other) == secrets.normalised(name):
            raise UnfitError(f"in variables it has the same name as the account {other}: rename one", name)


def fit(kind: type[Any], given: Mapping[str, Any], wrong: list[str], table: str = "") -> dict[str, Any]:
    """Check and convert the values that a program gives for the settings of a dataclass.

    Args:
        kind: The dataclass.
        given: The values by setting; that of a table may be a mapping.
        wrong: Gets a line for each value that does not fit.
        table: The table's name with a dot, for these lines.

    Returns:
        The values that fit.
    """
    known, fitting = settings_of(kind), {}
    for name, value in given.items():
        if name not in known:
            wrong.append(f"{table}{name}: no such setting")
            continue
        inner = known[name].table
        if inner is not None and isinstance(value, inner):
            fitting[name] = value
            continue
        try:
            fitting[name] = _fit_tables(known[name], known[name].check(value), wrong, f"{table}{name}.")
        except UnfitError as error:
            shown = "" if name in secrets.HIDDEN else f" = {secrets.without_login(repr(error.value))}"
            wrong.append(f"{table}{name}{shown}: {error}")
    return fitting


def _fit_tables(known: Setting, value: Any, wrong: list[str], table: str) -> Any:
    """Check and convert the tables in a setting's value, if it has any.

    Raises:
        UnfitError: A name in a table of tables, or what it names, does not fit.
    """
    if known.table is not None:
        return known.table(**fit(known.table, value, wrong, table))
    kind = known.tables
    if kind is None:
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        check_name(name, found)
        if isinstance(inner, kind):
            found[name] = inner
        else:
            found[name] = kind(**fit(kind, mapping(inner), wrong, f"{table}{name}."))
    return found


@dataclass(frozen=True)
class Lanes:
    """``[lanes]``: the effect of a failure on the rest of its conversation."""

    on_trouble: Literal["hold", "continue"] = setting(
        choice("hold", "continue"),
        "hold",
        meaning="the effect of an item that failed, is refused or in doubt on the rest of its lane: hold it "
        "until a person has resolved the item, or continue without the item",
    )

    @property
    def hold(self) -> bool:
        """True where a failure holds the rest of its lane."""
        return self.on_trouble == "hold"


@dataclass(frozen=True)
class Account:
    """``[accounts.NAME]``: an account beside the one above all tables; rows name it in their ``account`` column."""

    base_url: str | None = setting(
        text_as(service_address), None, meaning="the account's service; where none is named, the one above all tables"
    )
    limit: int | None = setting(
        whole_number(least=1, most=100_000),
        None,
        meaning="the account's concurrent jobs; where none are named, as many as above all tables",
    )
    app_id: Secret | None = setting(secret, None, meaning="the application's id; better in the environment")
    app_secret: Secret | None = setting(secret, None, meaning="the application's secret; better in the environment")
    access_token: Secret | None = setting(secret, None, meaning="a ready token; better in the environment")


@dataclass(frozen=True)
class Replies:
    """``[replies]``: the operator's own guarantees about answers."""

    proves_not_appended: tuple[Literal[500, 503], ...] = setting(
        listing(choice(500, 503)),
        (),
        meaning="statuses that prove that nothing was appended, so that the item is tried again; the "
        "operator's own guarantee: otherwise 500 and 503 are in doubt",
    )


@dataclass(frozen=True)
class Doubt:
    """``[doubt]``: evidence kept and accepted for items in doubt."""

    look_before: bool = setting(
        switch,
        False,
        meaning="take a snapshot of the conversation before every attempt (one GET an item), to which `uploader "
        "resolve --look` compares the present one",
    )
    settle: Literal["person", "look"] = setting(
        choice("person", "look"),
        "person",
        meaning="doubt is resolved by a person alone, or also by `uploader resolve --look` where its snapshots prove "
        "the append",
    )
    unanswered: int | Literal["auto"] = setting(
        auto_or(whole_number(least=1)),
        "auto",
        meaning="uploads that may wait for their answer at once: so many items at most are in doubt when a gateway "
        "dies; auto: 5 while answers are quick, and more only where slow answers leave slots idle",
    )


@dataclass(frozen=True)
class Jobs:
    """``[jobs]``: the polling of live jobs."""

    polls_per_second: float | Literal["auto"] = setting(
        auto_or(number(above=0, most=1000)),
        "auto",
        meaning="status requests per second, for the whole account; auto: 30, or as many as the limit and the jobs' "
        "seconds ask for",
    )


@dataclass(frozen=True)
class Insights:
    """``[insights]``: the parts that `uploader insights` fetches, and its rate."""

    requests_per_second: float = setting(
        number(above=0, most=1000), 5.0, meaning="requests per second, for all conversations together"
    )
    only: tuple[str, ...] = setting(listing(text), (), meaning="the parts that are fetched; none named: all of them")


@dataclass(frozen=True)
class Schedule:
    """``[schedule]``: the order of conversations, and the assumptions of a plan until jobs were seen."""

    order: Literal["longest-lane-first", "manifest"] = setting(
        choice("longest-lane-first", "manifest"),
        "longest-lane-first",
        meaning="the conversation that is sent first: the one with the most work left, by the time that finished "
        "jobs have taken (else by seconds of audio), so that the batch ends early (longest-lane-first), or the first "
        "one in the manifest (manifest)",
    )
    job_seconds_per_audio_second: float = setting(
        number(above=0, most=1000),
        0.5,
        meaning="the seconds that `uploader plan` assumes a job to take for a second of audio, until jobs were seen",
    )
    audio_bytes_per_second: float = setting(
        number(above=0),
        16000.0,
        meaning="the bytes that `uploader plan` assumes for a second of audio where no file's length is known",
    )
