"""Decides if a recording fits its row, before a byte of it is sent."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any, NamedTuple

from uploader.model import ENDINGS, AudioFacts, AudioFormat

# the service takes files of up to four hours
LONGEST_SECONDS = 4 * 3600.0
# put-audio.md, mode: phone calls are recorded at 8 kHz, meetings at 16 kHz or more
TELEPHONE_HERTZ = 8000
WIDE_HERTZ = 16000

# the formats that a contentType may name
NAMED_AS = {
    "audio/wav": (AudioFormat.WAV, AudioFormat.WAV_MP3, AudioFormat.RF64),
    "audio/wave": (AudioFormat.WAV, AudioFormat.WAV_MP3, AudioFormat.RF64),
    "audio/mpeg": (AudioFormat.MP3, AudioFormat.WAV_MP3),
    "audio/mp3": (AudioFormat.MP3, AudioFormat.WAV_MP3),
}

# formats that no documented file extension stands for
UNDOCUMENTED = frozenset(AudioFormat) - {audio_format for formats in ENDINGS.values() for audio_format in formats}


class Severity(StrEnum):
    """The weight of a finding."""

    # the row is refused
    ERROR = "error"
    # the row is sent, and the command warns of it
    WARNING = "warning"
    # the row is sent, and the plan alone shows it
    HINT = "hint"


class Finding(NamedTuple):
    """A mismatch between a recording and its row: the manifest's column, its value, and the remedy."""

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
    """Compare a recording with its row.

    Args:
        facts: The facts of the recording.
        audio_path: The file as the manifest names it.
        content_type: The row's contentType; it outranks the detected media type.
        parameters: The row's query parameters over the config's, in their own types.

    Returns:
        The mismatches.
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
        remedy = "the file does not begin as any audio format that is known: make sure that it can be played"
        yield _warning("audioPath", audio_path, remedy)
    elif promised and found not in promised:
        remedy = (
            f"the file holds {found.value} and not {_names(promised)}, as its ending says; it is sent {_sent(facts)}"
        )
        yield _warning("audioPath", audio_path, f"{remedy}: rename it, or make sure that it is the right recording")
    elif found in UNDOCUMENTED:
        remedy = f"the file holds {found.value}, and nothing says that the service takes it: convert it"
        yield _warning("audioPath", audio_path, remedy)
    elif found is AudioFormat.WAV_MP3 and content_type is None:
        yield _warning("audioPath", audio_path, f"the file holds {found.value}: it is sent {_sent(facts)}")
    if found and content_type is not None and found not in NAMED_AS.get(content_type, ()):
        remedy = f"the file holds {found.value}, and is sent as {content_type} because this column says so"
        yield _warning("contentType", content_type, f"{remedy}: correct it, or leave it empty")


def _sent(facts: AudioFacts) -> str:
    return f"as {facts.media_type}" if facts.media_type else "without a Content-Type, and the service looks itself"


def _length(facts: AudioFacts, audio_path: str) -> Iterator[Finding]:
    if facts.flaw is not None:
        yield _warning("audioPath", audio_path, facts.flaw.value)
    if facts.is_cut_off:
        remedy = "the file is shorter than its header says: it was cut off; copy it anew, or send what there is of it"
        yield _warning("audioPath", audio_path, remedy)
    if facts.duration_seconds is not None and facts.duration_seconds > LONGEST_SECONDS:
        hours = facts.duration_seconds / 3600
        remedy = f"the recording lasts {hours:.2f} hours, and the service takes four: cut it into parts"
        yield _warning("audioPath", audio_path, remedy)


def _channels(facts: AudioFacts, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the mismatches of channels (put-audio.md, Channel Metadata); none where their number is unknown."""
    count = facts.channels
    if count is None:
        return
    named = _channels_named(parameters.get("channelMetadata"))
    lacking = sorted({channel for channel in named if not 1 <= channel <= count})
    if lacking:
        has = "one channel" if count == 1 else f"channels 1 to {count}"
        remedy = f"the file has {has}: correct the channel numbers, or leave out those that it lacks"
        yield Finding(Severity.ERROR, "channelMetadata", ", ".join(map(str, lacking)), remedy)
    if count == 1 and parameters.get("enableSeparateRecognitionPerChannel") is True:
        remedy = "the file has one channel, so there is nothing to separate: leave it out, or name the stereo recording"
        yield _warning("enableSeparateRecognitionPerChannel", "true", remedy)


def _channels_named(metadata: Any) -> Sequence[int]:
    """Return the channel numbers in a channelMetadata value."""
    # another rule reports values that are not of the documented shape
    if not isinstance(metadata, list | tuple):
        return []
    channels = [entry.get("channel") for entry in metadata if isinstance(entry, Mapping)]
    return [channel for channel in channels if isinstance(channel, int) and not isinstance(channel, bool)]


def _mode(facts: AudioFacts, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    rate, mode = facts.sample_rate, parameters.get("mode", "default")
    if rate is None:
        return
    if mode == "phone" and rate >= WIDE_HERTZ:
        remedy = f"the file is recorded at {rate} Hz, and phone is best for calls at 8000 Hz: consider default"
        yield Finding(Severity.HINT, "mode", "phone", remedy)
    if mode == "default" and rate <= TELEPHONE_HERTZ:
        remedy = f"the file is recorded at {rate} Hz, as phone calls are: consider phone"
        yield Finding(Severity.HINT, "mode", str(parameters.get("mode", "")), remedy)


def _names(formats: frozenset[AudioFormat]) -> str:
    """Return the name of the first format that a file extension stands for."""
    return next(audio_format.value for audio_format in AudioFormat if audio_format in formats)


def _warning(column: str, value: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, column, value, remedy)
