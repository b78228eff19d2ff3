"""Decides whether a recording fits what its row says of it: before a byte of it is sent."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any, NamedTuple

from uploader.model import ENDINGS, AudioFacts, AudioFormat

LONGEST_SECONDS = 4 * 3600.0
"""The service takes files of up to four hours."""
TELEPHONE_HERTZ = 8000
WIDE_HERTZ = 16000
"""put-audio.md, mode: phone calls are recorded at 8 kHz, meetings at 16 kHz or more."""

NAMED_AS = {
    "audio/wav": (AudioFormat.WAV, AudioFormat.WAV_MP3, AudioFormat.RF64),
    "audio/wave": (AudioFormat.WAV, AudioFormat.WAV_MP3, AudioFormat.RF64),
    "audio/mpeg": (AudioFormat.MP3, AudioFormat.WAV_MP3),
    "audio/mp3": (AudioFormat.MP3, AudioFormat.WAV_MP3),
}
"""What a contentType may truly be said of."""


UNDOCUMENTED = frozenset(AudioFormat) - {one for promised in ENDINGS.values() for one in promised}
"""What a file may be found to be, and no ending of those that the service is known to take promises."""


class Severity(StrEnum):
    """How much a finding matters: an error refuses the row, a warning is told, a hint is shown by the plan."""

    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


class Finding(NamedTuple):
    """What does not fit: the manifest's column, its value, and what to do about it."""

    severity: Severity
    column: str
    value: str
    remedy: str


def findings(
    facts: AudioFacts,
    audio_path: str,
    content_type: str | None,
    parameters: Mapping[str, Any],
) -> list[Finding]:
    """Hold a recording against its row.

    Args:
        facts: What the file shows.
        audio_path: The file as the manifest names it.
        content_type: The row's own; it outranks what the file shows.
        parameters: The row's query parameters over the config's, in their own types.

    Returns:
        What does not fit, in no need of a file, a clock or a network to be found.
    """
    return [
        *_content(facts, audio_path, content_type),
        *_length(facts, audio_path),
        *_channels(facts, parameters),
        *_mode(facts, parameters),
    ]


def _content(facts: AudioFacts, audio_path: str, content_type: str | None) -> Iterator[Finding]:
    found = facts.format
    promised = ENDINGS.get(PurePath(audio_path).suffix.lower())
    if found is AudioFormat.TEXT:
        yield _warning(
            "audioPath", audio_path, "the file holds text and no audio: was an error page saved in its place?"
        )
    elif found is None:
        told = "the file does not begin as any audio format that is known: make sure that it can be played"
        yield _warning("audioPath", audio_path, told)
    elif promised and found not in promised:
        told = f"the file holds {found.value} and not {_names(promised)}, as its ending says; it is sent {_sent(facts)}"
        yield _warning("audioPath", audio_path, f"{told}: rename it, or make sure that it is the right recording")
    elif found in UNDOCUMENTED:
        told = f"the file holds {found.value}, and nothing says that the service takes it: convert it"
        yield _warning("audioPath", audio_path, told)
    elif found is AudioFormat.WAV_MP3 and content_type is None:
        yield _warning("audioPath", audio_path, f"the file holds {found.value}: it is sent {_sent(facts)}")
    if found and content_type is not None and found not in NAMED_AS.get(content_type, ()):
        told = f"the file holds {found.value}, and is sent as {content_type} because this column says so"
        yield _warning("contentType", content_type, f"{told}: correct it, or leave it empty")


def _sent(facts: AudioFacts) -> str:
    return f"as {facts.media_type}" if facts.media_type else "without a Content-Type, and the service looks itself"


def _length(facts: AudioFacts, audio_path: str) -> Iterator[Finding]:
    if facts.flaw is not None:
        yield _warning("audioPath", audio_path, facts.flaw.value)
    if facts.is_cut_off:
        told = "the file is shorter than its header says: it was cut off; copy it anew, or send what there is of it"
        yield _warning("audioPath", audio_path, told)
    if facts.duration_seconds is not None and facts.duration_seconds > LONGEST_SECONDS:
        hours = facts.duration_seconds / 3600
        told = f"the recording lasts {hours:.2f} hours, and the service takes four: cut it into parts"
        yield _warning("audioPath", audio_path, told)


def _channels(facts: AudioFacts, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """The rules of put-audio.md, Channel Metadata; of a file whose channels are unknown nothing is said."""
    count = facts.channels
    if count is None:
        return
    named = _channels_named(parameters.get("channelMetadata"))
    lacking = sorted({channel for channel in named if not 1 <= channel <= count})
    if lacking:
        has = "one channel" if count == 1 else f"channels 1 to {count}"
        told = f"the file has {has}: correct the channel numbers, or leave out those that it lacks"
        yield Finding(Severity.ERROR, "channelMetadata", ", ".join(map(str, lacking)), told)
    if count == 1 and parameters.get("enableSeparateRecognitionPerChannel") is True:
        told = "the file has one channel, so there is nothing to separate: leave it out, or name the stereo recording"
        yield _warning("enableSeparateRecognitionPerChannel", "true", told)


def _channels_named(metadata: Any) -> Sequence[int]:
    """The channel numbers of a channelMetadata; what is not of the documented shape is another rule's business."""
    if not isinstance(metadata, list | tuple):
        return []
    channels = [one.get("channel") for one in metadata if isinstance(one, Mapping)]
    return [one for one in channels if isinstance(one, int) and not isinstance(one, bool)]


def _mode(facts: AudioFacts, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    rate, mode = facts.sample_rate, parameters.get("mode", "default")
    if rate is None:
        return
    if mode == "phone" and rate >= WIDE_HERTZ:
        told = f"the file is recorded at {rate} Hz, and phone is best for calls at 8000 Hz: consider default"
        yield Finding(Severity.HINT, "mode", "phone", told)
    if mode == "default" and rate <= TELEPHONE_HERTZ:
        told = f"the file is recorded at {rate} Hz, as phone calls are: consider phone"
        yield Finding(Severity.HINT, "mode", str(parameters.get("mode", "")), told)


def _names(formats: frozenset[AudioFormat]) -> str:
    """The first name of those that an ending stands for."""
    return next(one.value for one in AudioFormat if one in formats)


def _warning(column: str, value: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, column, value, remedy)
