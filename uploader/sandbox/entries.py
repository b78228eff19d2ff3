"""The entries of the journal, and their JSON."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

JobStatus = Literal["scheduled", "in_progress", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBegun:
    """The arrival of a PUT's head."""

    event: Literal["put-begun"] = "put-begun"
    at: float
    number: int
    conversation_id: str
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PutEntry:
    """The end of a PUT: its body is read as far as it will be, and its answer is decided."""

    event: Literal["put"] = "put"
    # seconds since the sandbox started, as in every entry
    at: float
    # the PUT's number over all PUTs, from 1
    number: int
    conversation_id: str
    # the answer's HTTP status; None where no answer was given
    status: int | None
    # the jobId; None where nothing was appended
    job_id: str | None
    fault: str | None
    # the bytes of the body that were read
    bytes: int
    content_length: int | None
    # the body's hash; None where it was not read whole
    sha256: str | None
    # the live jobs and uploads when this PUT's slot was taken, itself included where it took one
    live: int
    limit: int
    # headers by lower-case name, without the credentials
    headers: dict[str, str]
    # names and values of the query, decoded
    query: tuple[tuple[str, str], ...]
    # the query's parameters by name, each in its own type; empty where the query is malformed
    parameters: dict[str, Any] = field(default_factory=dict)
    # the fault of the request, where it was answered with 400
    reason: str | None = None
    # the request's deprecated headers, by lower-case name
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRest:
    """The end of a connection whose PUT was refused before 100 Continue."""

    event: Literal["put-rest"] = "put-rest"
    at: float
    number: int
    conversation_id: str
    # the bytes of the body that came all the same
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry:
    """The start or the end of a job."""

    event: Literal["job-begun", "job-ended"]
    at: float
    job_id: str
    conversation_id: str
    status: JobStatus
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """A request for a token."""

    event: Literal["token"] = "token"
    at: float
    status: int
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PollEntry:
    """A request for a job's status."""

    event: Literal["poll"] = "poll"
    at: float
    job_id: str
    # the answer's HTTP status; None where no answer was given
    status: int | None
    # the job's status, if the answer had it
    job: JobStatus | None
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEntry:
    """A request for a conversation, or for a part of it."""

    event: Literal["look"] = "look"
    at: float
    conversation_id: str
    # the path below the conversation; None for the conversation itself
    part: str | None
    status: int
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEntry:
    """A callback to a webhookUrl, or one that a fault left out."""

    event: Literal["call"] = "call"
    at: float
    job_id: str
    # the job's status in the callback
    job: JobStatus
    fault: str | None
    # the answer's HTTP status; None where none came, or no callback was sent
    status: int | None


Entry = PutBegun | PutEntry | PutRest | JobEntry | TokenEntry | PollEntry | ConversationEntry | CallEntry

_KINDS: Final[dict[str, type[Entry]]] = {
    "put-begun": PutBegun,
    "put": PutEntry,
    "put-rest": PutRest,
    "job-begun": JobEntry,
    "job-ended": JobEntry,
    "token": TokenEntry,
    "poll": PollEntry,
    "look": ConversationEntry,
    "call": CallEntry,
}


def to_json(entry: Entry) -> str:
    """Encode an entry as a line of the journal's file, without its end."""
    return json.dumps({_camel(name): value for name, value in asdict(entry).items()}, ensure_ascii=False)


def from_json(line: str) -> Entry:
    """Decode a line of the journal's file."""
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
