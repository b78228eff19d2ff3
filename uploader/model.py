"""The facts: what items, attempts, replies and jobs are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No parameters, no extras."""


class State(StrEnum):
    """What has become of an item."""

    PENDING = "pending"
    """Waiting its turn."""
    SENDING = "sending"
    """Its attempt is committed, its last chunk has not left: after a crash it is pending again."""
    SENT = "sent"
    """The mark before the last chunk is committed, no answer yet: after a crash it is in doubt."""
    ACCEPTED = "accepted"
    """The service answered with a jobId; the job is running."""
    COMPLETED = "completed"
    """The job completed."""
    FAILED = "failed"
    """The job ended as failed."""
    REFUSED = "refused"
    """The service said no, or the file could not be read or changed under us: nothing was appended."""
    IN_DOUBT = "in_doubt"
    """The last chunk left and no trustworthy answer came: it may or may not have been appended."""
    HELD = "held"
    """Shown, never stored: pending behind an item of its lane that needs a person first."""
    DROPPED = "dropped"
    """A person decided that it shall not be appended."""


LIVE = (State.SENDING, State.SENT, State.ACCEPTED)
"""States in which the service may be at work on the item, or is about to be."""
SLOTTED = (*LIVE, State.IN_DOUBT)
"""States that hold a slot, as long as ``slot_until`` is unset or ahead."""
TROUBLED = (State.FAILED, State.REFUSED, State.IN_DOUBT)
"""States that hold the rest of the lane until a person has settled them."""
OVER = (State.COMPLETED, State.DROPPED)
"""States that free the lane for the next item."""


class Outcome(StrEnum):
    """What a reply means for the item."""

    APPLIED = "applied"
    REFUSED = "refused"
    THROTTLED = "throttled"
    NOT_SENT = "not sent"
    CUT_OFF = "cut off"
    IN_DOUBT = "in doubt"


class JobStatus(StrEnum):
    """The statuses of a job (put-audio.md, Using Webhook)."""

    SCHEDULED = "scheduled"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"

    @classmethod
    def read(cls, word: Any) -> "JobStatus | None":
        """The status that a word means, whatever its letter case and the blanks around it; None where it is none."""
        found = word.strip().lower() if isinstance(word, str) else None
        return cls(found) if found in set(cls) else None

    @property
    def ended(self) -> bool:
        """Whether the job is over, and its slot free."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED)


Hint = tuple[str, str, str]
"""Column, value and remedy of what could be better: a problem without its line, so that rows alike share one."""


class Row(NamedTuple):
    """One valid line of a manifest; a tuple, because a million of them are made.

    ``path`` is absolute; ``audio_path`` is what the manifest wrote. ``signature`` is what the file system
    says of the file (None: the file is gone, but an item with this path was begun before).
    ``warnings`` are what is likely a mistake, and does not keep the row from being sent; ``hints`` what could be
    better. ``facts`` is what the recording shows of itself (None: it was not read).
    """

    line: int
    conversation_id: str
    audio_path: str
    path: str
    content_type: str | None = None
    parameters: Mapping[str, Any] = NOTHING
    extras: Mapping[str, Any] = NOTHING
    signature: "FileSignature | None" = None
    warnings: "Sequence[Problem]" = ()
    hints: "Sequence[Hint]" = ()
    facts: "AudioFacts | None" = None


class Problem(NamedTuple):
    """One thing that is wrong with a manifest: where, what, and what to do about it."""

    line: int
    column: str
    value: str
    remedy: str

    def __str__(self) -> str:
        """Say it in one line."""
        where = f"line {self.line}" + (f", {self.column}" if self.column else "")
        return f"{where}: {self.value!r}: {self.remedy}" if self.value else f"{where}: {self.remedy}"


class InvalidRow(NamedTuple):
    """One line of a manifest that cannot be sent, with all that is wrong with it.

    ``given`` is what it says beside conversation, path and ``x-`` columns, right or wrong: it is to be corrected.
    """

    line: int
    conversation_id: str
    audio_path: str
    extras: Mapping[str, Any]
    problems: Sequence[Problem]
    warnings: Sequence[Problem] = ()
    given: Mapping[str, Any] = NOTHING


class FileSignature(NamedTuple):
    """What tells, without reading it, that a file is the one that was read before.

    ``change`` joins the modification time, the change time and the inode: whoever writes to the file, or
    puts another in its place, changes one of them.
    """

    size: int
    change: str


class AudioFormat(StrEnum):
    """What a file's first bytes show that it is; the value is its name for people."""

    MP3 = "MP3"
    WAV = "WAV"
    WAV_MP3 = "MP3 data in a WAV container"
    RF64 = "WAV of more than 4 GiB (RF64)"
    AAC = "AAC"
    AC3 = "AC-3"
    AIFF = "AIFF"
    AMR = "AMR"
    FLAC = "FLAC"
    MPEG_4 = "MPEG-4"
    OGG = "Ogg"
    OPUS = "Opus"
    WMA = "Windows Media audio"
    MATROSKA = "WebM or Matroska"
    AU = "Sun audio (AU)"
    CAF = "Core Audio (CAF)"
    RIFX = "big-endian WAV (RIFX)"
    WAVE_64 = "Sony Wave64"
    AVI = "AVI video"
    APE = "Monkey's Audio"
    WAVPACK = "WavPack"
    DSD = "DSD audio"
    REAL = "RealAudio"
    FLASH = "Flash video"
    MPEG_PS = "MPEG program stream"
    MIDI = "MIDI notes"
    TEXT = "text"


class Flaw(StrEnum):
    """What a recording's header and its content show to be wrong with it; the value says it to people."""

    NO_AUDIO = "there is no audio in the file: make sure that it is the right recording"
    UNFINISHED = "the recording was never finished, its index is missing: repair it, or make sure that it can be played"
    SURPLUS = "the file holds more than its header says, so its duration is unknown: repair it, or check what is played"


ENDINGS = {
    ending: frozenset(formats)
    for endings, formats in (
        ((".mp3",), (AudioFormat.MP3,)),
        ((".wav", ".wave"), (AudioFormat.WAV, AudioFormat.WAV_MP3, AudioFormat.RF64)),
        ((".aac",), (AudioFormat.AAC,)),
        ((".ac3",), (AudioFormat.AC3,)),
        ((".aif", ".aiff", ".aifc"), (AudioFormat.AIFF,)),
        ((".amr", ".awb"), (AudioFormat.AMR,)),
        ((".flac",), (AudioFormat.FLAC,)),
        ((".m4a", ".m4b", ".mp4"), (AudioFormat.MPEG_4,)),
        ((".ogg", ".oga"), (AudioFormat.OGG, AudioFormat.OPUS)),
        ((".opus",), (AudioFormat.OPUS,)),
        ((".wma",), (AudioFormat.WMA,)),
    )
    for ending in endings
}
"""What a file's ending promises that it is, of the formats that the service is known to take."""


class AudioFacts(NamedTuple):
    """What a recording's first bytes and its header say; None is unknown, never a guess.

    ``media_type`` is the Content-Type to send (None: send none, the service looks itself), ``sample_rate`` is
    in hertz. ``is_cut_off``: the header promises more than the file has. ``flaw`` is what else is wrong with it.
    """

    media_type: str | None = None
    duration_seconds: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    format: AudioFormat | None = None
    is_cut_off: bool = False
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one item, already committed to the ledger: what ``attempt`` needs to carry it out."""

    attempt_id: int
    item_id: int
    lane_id: int
    number: int
    batch: str
    line: int
    conversation_id: str
    path: Path
    size: int
    # FileSignature.change of the file as it was checked, None where that is not known
    change: str | None
    cut_offs: int
    content_hash: str | None
    content_type: str | None
    parameters: Mapping[str, Any]
    work: float = 0.0
    """Seconds of audio, as far as is known: what its lane has less of while it is under way."""
    token: str | None = field(default=None, repr=False)
    """The secret in its webhookUrl; None where it is polled alone."""

    def job(self, job_id: str, accepted_at: float) -> "LiveJob":
        """The job that it became."""
        return LiveJob(
            item_id=self.item_id,
            lane_id=self.lane_id,
            job_id=job_id,
            batch=self.batch,
            line=self.line,
            conversation_id=self.conversation_id,
            attempt=self.number,
            size=self.size,
            accepted_at=accepted_at,
            in_scope=True,
            work=self.work,
            calls=self.token is not None,
        )


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job that the service is at work on, as far as we know. ``accepted_at``: seconds since the epoch."""

    item_id: int
    lane_id: int
    job_id: str
    batch: str
    line: int
    conversation_id: str
    attempt: int
    size: int
    accepted_at: float
    in_scope: bool
    work: float = 0.0
    """Seconds of audio, as far as is known: what tells how long it may take."""
    watched: bool = True
    """Whether it was followed from its beginning: then its end tells how long jobs take."""
    calls: bool = False
    """Whether the service was given our address for it, in this run."""


class Reply(NamedTuple):
    """What came back on the wire for one attempt; that nothing came back is a reply too.

    ``failure`` says how the connection ended where it ended badly, ``source_failure`` what was wrong with
    our own file. ``answer`` is the JSON object of the body (None: there was none that could be read), ``words`` the
    first words of a body that is none. ``unreadable``: status and size of an answer that came and is no HTTP.
    ``location``: where an answer leads to; it is not followed. No text in it repeats a secret of ours.
    """

    connected: bool = False
    last_chunk_left: bool = False
    status: int | None = None
    answer: Mapping[str, Any] | None = None
    retry_after: str | None = None
    failure: str = ""
    words: str = ""
    unreadable: str = ""
    location: str = ""
    source_failure: str = ""
    withheld: bool = False
    """We cut the upload ourselves before its last chunk: a signal, or the brake."""
    bytes_sent: int = 0

    @property
    def message(self) -> str:
        """The service's own words, cut to a length that a log line bears."""
        said = (self.answer or {}).get("message")
        return (said if isinstance(said, str) and said else self.words)[:300]


class Answer(NamedTuple):
    """What asking the service for something came to; asking changes nothing, so it may be asked again.

    ``status`` None: nothing came back. ``failure`` says why, or why the body could not be read. ``body`` is JSON of
    any type.
    """

    status: int | None = None
    body: Any = None
    retry_after: str | None = None
    failure: str = ""


class Next(StrEnum):
    """What is to be done after an attempt."""

    FOLLOW = "follow the job"
    SETTLE = "leave it to a person"
    AGAIN = "try again after a wait"
    COOL_DOWN = "pause the account, then try again"
    RENEW_TOKEN = "get a new token, then try again"  # noqa: S105 - a sentence, not a secret


class Verdict(NamedTuple):
    """What a reply means: the outcome, what becomes of the item, what comes next, and why."""

    outcome: Outcome
    state: State
    next: Next
    reason: str
    job_id: str | None = None


class Decision(StrEnum):
    """What a person decided of an item that needed them."""

    APPENDED = "appended"
    NOT_APPENDED = "not-appended"
    RETRY = "retry"
    DROP = "drop"


class ConversationSnapshot(NamedTuple):
    """What the service shows of a conversation: how many messages, and when the last one ends."""

    messages: int
    last_end: str | None


class ConversationFacts(NamedTuple):
    """How far a conversation is, over all batches. ``live``: items whose job may be running.

    ``last_finished_at``: when the last of its completed items finished, in seconds since the epoch.
    """

    completed: int
    last_finished_at: float | None
    live: int


class Order(StrEnum):
    """Which of the lanes that may go goes first."""

    LONGEST_LANE_FIRST = "longest-lane-first"
    """The one with the most work left, by its audio and by its items: nothing else bounds when the batch ends."""
    MANIFEST = "manifest"
    """The one whose item stands first."""


class SlotHolder(NamedTuple):
    """An item that takes a slot. ``until``: seconds since the epoch, None where no time ends it."""

    batch: str
    line: int
    conversation_id: str
    state: State
    job_id: str | None
    until: float | None


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """What is known of the account's limit of concurrent jobs.

    ``live`` are the slots that are taken, by jobs and by items in doubt: ``doubtful`` are the latter, the last of them
    until ``doubtful_until``, in seconds since the epoch (None: there are none).
    ``others`` are the jobs that others seem to have live, None where nothing tells. ``rises_at`` is when a limit that
    429s taught takes its next step up, in seconds since the epoch, None where it is as high as it may be.
    ``expires_at`` is when the first slot that is held for a time only is free again, None where there is none such.
    """

    configured: int
    stated: int | None
    in_force: int
    live: int
    others: int | None = None
    rises_at: float | None = None
    doubtful: int = 0
    doubtful_until: float | None = None
    expires_at: float | None = None

    @property
    def room_at(self) -> float | None:
        """Earliest time a slot frees without an event: a doubt expires, or the learned limit steps up."""
        return min((at for at in (self.expires_at, self.rises_at) if at is not None), default=None)


class ResultLine(NamedTuple):
    """The public line about a row (design: results). Times are seconds since the epoch, None is unknown."""

    line: int
    batch: str
    conversation_id: str
    audio_path: str
    job_id: str | None
    state: State
    attempts: int
    http_status: int | None
    error: str | None
    size: int | None
    duration_seconds: float | None
    channels: int | None
    billed_seconds: float | None
    accepted_at: float | None
    finished_at: float | None
    extras: Mapping[str, Any]


class Load(NamedTuple):
    """One loading of a manifest into its batch."""

    load_id: int
    batch_id: int
    account_id: int
    repeat_id: int
