"""One setting, and the settings that stand in tables of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from uploader.settings.checks import Check, choice, listing, mapping, number, switch, text, whole_number


class Setting(NamedTuple):
    """One setting: what it may be, what it is where no source gives it, and what it means.

    ``commands`` are those that have it as a flag, ``metavar`` is what stands for its value in their help, ``group`` the
    heading that it stands below there. ``table`` is the dataclass of a table of settings.
    """

    check: Check
    default: Any
    meaning: str
    commands: Sequence[str] = ()
    metavar: str | None = None
    group: str = "Options"
    table: type[Any] | None = None


def setting(
    check: Check, default: Any, *, meaning: str, commands: str = "", metavar: str | None = None, group: str = "Options"
) -> Any:
    """The field of a setting, which is also a flag of the commands named in ``commands`` (words, apart by spaces).

    A default that can be called is made anew each time.
    """
    kept = {"setting": Setting(check, default, meaning, commands.split(), metavar, group)}
    if callable(default):
        return field(default_factory=default, metadata=kept)
    return field(default=default, metadata=kept)


def table(kind: type[Any], *, meaning: str) -> Any:
    """The field of a table of settings."""
    return field(default_factory=kind, metadata={"setting": Setting(mapping, kind, meaning, table=kind)})


def settings_of(kind: type[Any]) -> dict[str, Setting]:
    """The settings of a dataclass by their names, in its order."""
    return {field.name: field.metadata["setting"] for field in fields(kind) if "setting" in field.metadata}


@dataclass(frozen=True)
class Lanes:
    """``[lanes]``: what trouble in a conversation does to the rest of it."""

    on_trouble: Literal["hold", "continue"] = setting(
        choice("hold", "continue"),
        "hold",
        meaning="what an item that failed, is refused or in doubt does to the rest of its lane: hold it "
        "until a person has settled it, or continue without it",
    )

    @property
    def hold(self) -> bool:
        """Whether trouble holds the rest of a lane."""
        return self.on_trouble == "hold"


@dataclass(frozen=True)
class Replies:
    """``[replies]``: what the operator vouches for."""

    proves_not_appended: tuple[Literal[500, 503], ...] = setting(
        listing(choice(500, 503)),
        (),
        meaning="statuses that prove that nothing was appended, so that the item is tried again; your "
        "own promise: 500 and 503 are in doubt otherwise",
    )


@dataclass(frozen=True)
class Doubt:
    """``[doubt]``: what evidence is kept and taken for items in doubt."""

    look_before: bool = setting(
        switch,
        False,
        meaning="look at the conversation before every attempt (one GET an item), so that `uploader resolve "
        "--look` can compare",
    )
    settle: Literal["person", "look"] = setting(
        choice("person", "look"),
        "person",
        meaning="who settles doubt: a person alone, or also `uploader resolve --look`, where what it shows proves "
        "the append",
    )
    unanswered: int = setting(
        whole_number(least=1),
        5,
        meaning="uploads that may wait for their answer at once: so many items at most are in doubt when a gateway "
        "dies; where answers take seconds, a higher number keeps the account full",
    )


@dataclass(frozen=True)
class Jobs:
    """``[jobs]``: how live jobs are followed."""

    polls_per_second: float = setting(
        number(above=0, most=1000), 30.0, meaning="status requests per second, for the whole account"
    )


@dataclass(frozen=True)
class Insights:
    """``[insights]``: what `uploader insights` fetches, and how fast."""

    requests_per_second: float = setting(
        number(above=0, most=1000), 5.0, meaning="requests per second, for all conversations together"
    )
    only: tuple[str, ...] = setting(listing(text), (), meaning="the parts that are fetched; none named: all of them")


@dataclass(frozen=True)
class Schedule:
    """``[schedule]``: which conversation goes first, and what a plan assumes as long as nothing was seen."""

    order: Literal["longest-lane-first", "manifest"] = setting(
        choice("longest-lane-first", "manifest"),
        "longest-lane-first",
        meaning="which of the conversations that may go goes first: the one with the most work left, as far as "
        "finished jobs have shown what a job takes (else by seconds of audio), so that the batch ends early "
        "(longest-lane-first), or the one that stands first in the manifest (manifest)",
    )
    job_seconds_per_audio_second: float = setting(
        number(above=0, most=1000),
        0.5,
        meaning="what `uploader plan` takes a job to last for a second of audio, until the ledger has seen some",
    )
    audio_bytes_per_second: float = setting(
        number(above=0),
        16000.0,
        meaning="what `uploader plan` takes a second of audio to hold where no file's length is known, in bytes",
    )
