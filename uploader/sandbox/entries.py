"""Gives each thing that can happen in a sandbox its journal entry, and the entry its JSON."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

JobStatus = Literal["scheduled", "in_progress", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBegun:
    """The head of a PUT arrived."""

    event: Literal["put-begun"] = "put-begun"
    at: float
    number: int
    conversation_id: str
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PutEntry:
    """A PUT is over: as much of its body was read as will ever be, and its answer is decided."""

    event: Literal["put"] = "put"
    at: float
    """Seconds since the sandbox started, as in every entry."""
    number: int
    """Counted over all PUTs, from 1."""
    conversation_id: str
    status: int | None
    """None where no answer was given."""
    job_id: str | None
    """None where nothing was appended."""
    fault: str | None
    bytes: int
    """The bytes of the body that were read."""
    content_length: int | None
    sha256: str | None
    """Of the body; None where it was not read whole."""
    live: int
    """Jobs (and uploads, where these count) when this PUT took its slot, itself included, or was refused one."""
    limit: int
    headers: dict[str, str]
    """By lower-case name; the credentials are withheld."""
    query: tuple[tuple[str, str], ...]
    """Names and values, decoded."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The query's parameters by name, each in its own type; empty where they are not as the specification says."""
    reason: str | None = None
    """What was wrong with the request, where it was answered with 400."""
    deprecated: tuple[str, ...] = ()
    """The deprecated headers that it carried, by lower-case name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRest:
    """A PUT that was refused in place of leave for its body: its connection was seen to the end."""

    event: Literal["put-rest"] = "put-rest"
    at: float
    number: int
    conversation_id: str
    bytes: int
    """The bytes of the body that came all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry:
    """A job was made, or it ended."""

    event: Literal["job-begun", "job-ended"]
    at: float
    job_id: str
    conversation_id: str
    status: JobStatus
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """A token was asked for."""

    event: Literal["token"] = "token"
    at: float
    status: int
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PollEntry:
    """A job's status was asked for."""

    event: Literal["poll"] = "poll"
    at: float
    job_id: str
    status: int | None
    """Of HTTP; None where no answer was given."""
    job: JobStatus | None
    """The job's own, if the answer told it."""
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LookEntry:
    """A conversation was asked for, or a part of it."""

    event: Literal["look"] = "look"
    at: float
    conversation_id: str
    part: str | None
    """What stands under the conversation in the path; None for itself."""
    status: int
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEntry:
    """A webhookUrl was told of a job's status, or was not."""

    event: Literal["call"] = "call"
    at: float
    job_id: str
    job: JobStatus
    """What was told."""
    fault: str | None
    status: int | None
    """The answer's, of HTTP; None where none came, or no call was made."""


Entry = PutBegun | PutEntry | PutRest | JobEntry | TokenEntry | PollEntry | LookEntry | CallEntry

_KINDS: Final[dict[str, type[Entry]]] = {
    "put-begun": PutBegun,
    "put": PutEntry,
    "put-rest": PutRest,
    "job-begun": JobEntry,
    "job-ended": JobEntry,
    "token": TokenEntry,
    "poll": PollEntry,
    "look": LookEntry,
    "call": CallEntry,
}


def to_json(entry: Entry) -> str:
    """One line of the journal's file, without its end."""
    return json.dumps({_camel(name): value for name, value in asdict(entry).items()}, ensure_ascii=False)


def from_json(line: str) -> Entry:
    """The entry that a line of the journal's file holds."""
    values: dict[str, Any] = {_snake(name): value for name, value in json.loads(line).items()}
    if "query" in values:
        values["query"] = tuple((name, value) for name, value in values["query"])
    if "deprecated" in values:
        values["deprecated"] = tuple(values["deprecated"])
    return _KINDS[values["event"]](**values)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)
