"""The facts of items, attempts, replies and jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

# no parameters, no extras
NOTHING: Mapping[str, Any] = MappingProxyType({})


class State(StrEnum):
    """The states of an item."""

    PENDING = "pending"
    """Waiting its turn."""
    SENDING = "sending"
    """Its attempt is committed, its last chunk is not admitted: after a crash it is pending again."""
    SENT = "sent"
    """Admitted, no answer yet: after a crash it is in doubt."""
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


# states in which the service may be at work on the item
LIVE = (State.SENT, State.ACCEPTED)
# states that hold a slot, as long as ``slot_until`` is unset or ahead
SLOTTED = (*LIVE, State.IN_DOUBT)
# states in which an attempt is out
UNDER_WAY = (State.SENDING, State.SENT)
# states that hold the rest of the lane until a person has resolved them
TROUBLED = (State.FAILED, State.REFUSED, State.IN_DOUBT)
# states that free the lane for the next item
OVER = (State.COMPLETED, State.DROPPED)


class Outcome(StrEnum):
    """The meaning of a reply for its item."""

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
        """Read a status in any letter case and with blanks around it; None where the word is none."""
        return _JOB_STATUSES.get(word.strip().lower()) if isinstance(word, str) else None

    @property
    def ended(self) -> bool:
        """True where the job is over, and its slot free."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED)


_JOB_STATUSES = {status.value: status for status in JobStatus}


# column, value and remedy of a possible improvement: without the line, so that equal hints of rows are shared
Hint = tuple[str, str, str]


class Row(NamedTuple):
    """A valid line of a manifest; a tuple, because a million of them are made."""

    line: int
    conversation_id: str
    # as the manifest has it
    audio_path: str
    # absolute, or the address of remote audio
    path: str
    content_type: str | None = None
    parameters: Mapping[str, Any] = NOTHING
    extras: Mapping[str, Any] = NOTHING
    # None: the file is gone, but an item with this path was begun before
    signature: "FileSignature | None" = None
    # likely mistakes, in spite of which the row is sent
    warnings: "Sequence[Problem]" = ()
    # possible improvements
    hints: "Sequence[Hint]" = ()
    # None: the recording was not read
    facts: "AudioFacts | None" = None
    # the account that the row names; None: the one that is set above all tables
    account: str | None = None


class Problem(NamedTuple):
    """A mistake in a manifest: line, column, value and remedy."""

    line: int
    column: str
    value: str
    remedy: str

    def __str__(self) -> str:
        """Format the problem as one line."""
        where = f"line {self.line}" + (f", {self.column}" if self.column else "")
        return f"{where}: {self.value!r}: {self.remedy}" if self.value else f"{where}: {self.remedy}"


class InvalidRow(NamedTuple):
    """An invalid line of a manifest, with all of its problems."""

    line: int
    conversation_id: str
    audio_path: str
    extras: Mapping[str, Any]
    problems: Sequence[Problem]
    warnings: Sequence[Problem] = ()
    # all other columns, right or wrong: the row is to be corrected
    given: Mapping[str, Any] = NOTHING
    # as in a row; empty: an unknown one, so that the row has no lane
    account: str | None = None
    # the file was missing already when the row was read, as that of an item that was begun may be
    is_file_gone: bool = False


class FileSignature(NamedTuple):
    """The metadata of a file that identifies its content without reading it."""

    size: int
    # modification time, change time and inode: writing to the file, or replacing it, changes one of them; of remote
    # audio the ETag, else the time of modification
    change: str


class AudioFormat(StrEnum):
    """The audio formats that a file's first bytes show; a value is the format's name for people."""

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
    """The flaws that a recording's header and content show; a value is the text for people."""

    NO_AUDIO = "there is no audio in the file: make sure that it is the right recording"
    UNFINISHED = "the recording was never finished, its index is missing: repair it, or make sure that it can be played"
    SURPLUS = "the file holds more than its header says, so its duration is unknown: repair it, or check what is played"


# the formats that a file extension stands for, of those that the service is known to take
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


class AudioFacts(NamedTuple):
    """The facts in a recording's first bytes and header; None is unknown, never a guess."""

    # the Content-Type to send; None: send none, the service detects it
    media_type: str | None = None
    duration_seconds: float | None = None
    channels: int | None = None
    # in hertz
    sample_rate: int | None = None
    format: AudioFormat | None = None
    # the header promises more than the file has
    is_cut_off: bool = False
    # any other flaw
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt at an item, already committed to the ledger."""

    attempt_id: int
    item_id: int
    lane_id: int
    number: int
    batch: str
    line: int
    conversation_id: str
    # of the file, or the address of remote audio
    path: str
    size: int
    # FileSignature.change of the file as it was checked, None where that is not known
    change: str | None
    cut_offs: int
    content_hash: str | None
    content_type: str | None
    parameters: Mapping[str, Any]
    # seconds of audio, as far as is known
    work: float = 0.0
    # the secret in its webhookUrl; None where the job is only polled
    token: str | None = field(default=None, repr=False)
    # how many of the attempts before it do not count: they were cut before their admission
    unadmitted: int = 0
    # it began before a slot, or its turn in the lane, was free for it
    is_ahead: bool = False

    def job(self, job_id: str, accepted_at: float) -> "LiveJob":
        """Return the live job of an accepted attempt."""
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
            is_active=True,
            work=self.work,
            calls=self.token is not None,
        )


class LiveJob(NamedTuple):
    """A job that the service is at work on, as far as the ledger knows."""

    item_id: int
    lane_id: int
    job_id: str
    batch: str
    line: int
    conversation_id: str
    attempt: int
    size: int
    # seconds since the epoch
    accepted_at: float
    # an active batch waits for it
    is_active: bool
    # seconds of audio, as far as is known
    work: float = 0.0
    # followed from its acceptance, so that its end tells a job's duration
    has_known_start: bool = True
    # the service was given our webhook for it, in this run
    calls: bool = False


class Reply(NamedTuple):
    """The reply to one attempt, as it came on the wire; that nothing came back is a reply too.

    No text in it repeats a secret of the uploader.
    """

    connected: bool = False
    last_chunk_left: bool = False
    status: int | None = None
    # the JSON object of the body; None where it has none that can be read
    answer: Mapping[str, Any] | None = None
    retry_after: str | None = None
    # the error by which the connection ended
    failure: str = ""
    # the first words of a body that is not a JSON object
    words: str = ""
    # status and size of an answer that is not HTTP
    unreadable: str = ""
    # the target of a redirect, which is not followed
    location: str = ""
    # the error in reading our own file
    source_failure: str = ""
    # the file may be there again later: it is remote
    source_is_away: bool = False
    # the file cannot be opened on this host, and may be on another
    source_is_elsewhere: bool = False
    # the uploader itself cut the upload before its last chunk: a signal, or the circuit breaker
    withheld: bool = False
    bytes_sent: int = 0

    @property
    def message(self) -> str:
        """The service's own words, cut to 300 characters."""
        said = (self.answer or {}).get("message")
        return (said if isinstance(said, str) and said else self.words)[:300]


class Answer(NamedTuple):
    """The answer to a GET, which may be repeated."""

    # None: nothing came back
    status: int | None = None
    # JSON of any type
    body: Any = None
    retry_after: str | None = None
    # the reason why nothing came back, or why the body could not be read
    failure: str = ""
    # the Date header
    date: str | None = None


class Next(StrEnum):
    """The next step after an attempt."""

    FOLLOW = "follow the job"
    SETTLE = "leave it to a person"
    AGAIN = "try again after a wait"
    COOL_DOWN = "pause the account, then try again"
    RENEW_TOKEN = "get a new token, then try again"  # noqa: S105 - a sentence, not a secret


class Verdict(NamedTuple):
    """The meaning of a reply: the outcome, the item's new state, the next step, and the reason in words."""

    outcome: Outcome
    state: State
    next: Next
    reason: str
    job_id: str | None = None


class Decision(StrEnum):
    """A person's decision about an item in trouble."""

    APPENDED = "appended"
    NOT_APPENDED = "not-appended"
    RETRY = "retry"
    DROP = "drop"


class ConversationSnapshot(NamedTuple):
    """A conversation as the service shows it."""

    # the number of its messages
    messages: int
    # the end of the last message, as the service writes it
    last_end: str | None


class ConversationFacts(NamedTuple):
    """The progress of a conversation, over all batches."""

    # items that completed
    completed: int
    # when the last of them finished, in seconds since the epoch
    last_finished_at: float | None
    # items whose job may be running
    live: int


class Order(StrEnum):
    """The orders in which ready lanes are taken."""

    # the lane with the most work left, by its audio and its items: it alone may bound the end of the batch
    LONGEST_LANE_FIRST = "longest-lane-first"
    # the lane whose next item stands first in the manifest
    MANIFEST = "manifest"


class SlotHolder(NamedTuple):
    """An item that holds a slot."""

    batch: str
    line: int
    conversation_id: str
    state: State
    job_id: str | None
    # seconds since the epoch; None where no time ends it
    until: float | None


class LimitFacts(NamedTuple):
    """The account's limit of concurrent jobs and its use; times are seconds since the epoch."""

    configured: int
    stated: int | None
    in_force: int
    # slots that are taken, by jobs and by items in doubt
    live: int
    # jobs that other users seem to have live; None where unknown
    others: int | None = None
    # the next raise of the observed limit; None where another limit is reached already
    rises_at: float | None = None
    # slots that items in doubt take, and the last moment of them; None where there are none
    doubtful: int = 0
    doubtful_until: float | None = None
    # the first moment at which a slot that is held for a time only is free; None where there is none
    expires_at: float | None = None
    # attempts under way that have no admission yet
    sending: int = 0
    # the account's workers that have not ended
    workers: int = 0
    # an attempt takes its slot before its first byte: the service, or a gateway, does not bear the wait
    needs_slot_first: bool = False
    # until when, and the answer that showed it
    slot_first_until: float | None = None
    slot_first_reason: str | None = None

    @property
    def free(self) -> int:
        """Return how many slots may be taken now."""
        return max(self.in_force - self.live, 0)

    @property
    def room_at(self) -> float | None:
        """Earliest time a slot frees without an event: a doubt expires, or the learned limit steps up."""
        return min((at for at in (self.expires_at, self.rises_at) if at is not None), default=None)


class ResultLine(NamedTuple):
    """The public line about a row (design: results); times are seconds since the epoch, None is unknown."""

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
    """A load of a manifest into its batch."""

    load_id: int
    batch_id: int
    account_id: int
    # 0, or the load of the ``--repeat`` whose items the batch names
    repeat_id: int
    # no manifest was loaded as this batch before
    is_first: bool = False
    # the ledger's load before this one was of the same batch
    is_again: bool = False
