"""What a recording is and how long: by content first, by name second, and unknown rather than wrong."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import recordings as made
from uploader import audio
from uploader.model import ENDINGS, AudioFacts, AudioFormat, Flaw
from uploader.policy import recordings

SAMPLES = Path(__file__).parents[2] / "config" / "sample"


def probed(folder: Path, content: bytes, name: str = "a.bin") -> AudioFacts:
    """The facts of a file with this content."""
    path = folder / name
    path.write_bytes(content)
    return audio.probe(path)


WHOLE: dict[str, tuple[bytes, AudioFacts]] = {
    "WAV": (made.recording(2.0, 2), AudioFacts("audio/wav", 2.0, 2, 8000, AudioFormat.WAV)),
    "µ-law": (
        made.wave_file(made.form(7, 1, 8000, 8), made.chunk(b"data", bytes(4000))),
        AudioFacts("audio/wav", 0.5, 1, 8000, AudioFormat.WAV),
    ),
    "extensible": (
        made.wave_file(made.extensible(1, 2, 16000, 24), made.chunk(b"data", bytes(96000))),
        AudioFacts("audio/wav", 1.0, 2, 16000, AudioFormat.WAV),
    ),
    "chunks before the data": (
        made.wave_file(
            made.chunk(b"JUNK", bytes(9001)),
            made.form(),
            made.chunk(b"LIST", b"INFO"),
            made.chunk(b"data", bytes(1600)),
        ),
        AudioFacts("audio/wav", 0.1, 1, 8000, AudioFormat.WAV),
    ),
    "chunks behind the data": (
        made.wave_file(made.form(), made.chunk(b"data", bytes(1600)), made.chunk(b"LIST", bytes(500))),
        AudioFacts("audio/wav", 0.1, 1, 8000, AudioFormat.WAV),
    ),
    "ADPCM": (
        made.wave_file(
            made.chunk(b"fmt ", struct.pack("<HHIIHHHH", 0x11, 1, 8000, 4055, 256, 4, 2, 505)),
            made.chunk(b"fact", struct.pack("<I", 5000)),
            made.chunk(b"data", bytes(2560)),
        ),
        AudioFacts("audio/wav", 0.625, 1, 8000, AudioFormat.WAV),
    ),
    "RF64": (
        made.wave_file(
            made.chunk(b"ds64", struct.pack("<QQQI", 16000 + 72, 16000, 8000, 0)),
            made.form(),
            made.chunk(b"data", bytes(16000), 0xFFFFFFFF),
            name=b"RF64",
            length=0xFFFFFFFF,
        ),
        AudioFacts(None, 1.0, 1, 8000, AudioFormat.RF64),
    ),
    "MP3, one bit rate": (made.mp3_file([8] * 100), AudioFacts("audio/mpeg", 3.6, 1, 16000, AudioFormat.MP3)),
    "MP3, Xing": (
        made.mp3_file([4, 9, 5] * 20, counted=b"Xing", channels=2),
        AudioFacts("audio/mpeg", 2.16, 2, 16000, AudioFormat.MP3),
    ),
    "MP3, VBRI": (
        made.mp3_file([4, 9, 5] * 20, counted=b"VBRI"),
        AudioFacts("audio/mpeg", 2.16, 1, 16000, AudioFormat.MP3),
    ),
    "MP3, long tag": (
        made.id3(100_000) + made.mp3_file([8] * 100) + b"TAG" + bytes(125),
        AudioFacts("audio/mpeg", 3.6, 1, 16000, AudioFormat.MP3),
    ),
    "AAC": (made.aac_file(), AudioFacts(format=AudioFormat.AAC)),
    "AAC, tag": (made.id3(50) + made.aac_file(), AudioFacts(format=AudioFormat.AAC)),
    "AC-3": (b"\x0b\x77" + bytes(100), AudioFacts(format=AudioFormat.AC3)),
    "AMR": (b"#!AMR\n" + bytes(100), AudioFacts(None, None, 1, 8000, AudioFormat.AMR)),
    "AMR-WB": (b"#!AMR-WB\n" + bytes(100), AudioFacts(None, None, 1, 16000, AudioFormat.AMR)),
    "AIFF-C": (made.aiff_file(kind=b"AIFC", compression=b"sowt"), AudioFacts(None, 2.0, 1, 8000, AudioFormat.AIFF)),
    "AIFF": (made.aiff_file(16000, channels=2), AudioFacts(None, 2.0, 2, 8000, AudioFormat.AIFF)),
    "FLAC": (made.flac_file(), AudioFacts(None, 2.375, 1, 16000, AudioFormat.FLAC)),
    "FLAC, tag": (made.id3(600) + made.flac_file(), AudioFacts(None, 2.375, 1, 16000, AudioFormat.FLAC)),
    "FLAC, a trailer": (made.flac_file() + b"TAG" + bytes(125), AudioFacts(None, 2.375, 1, 16000, AudioFormat.FLAC)),
    "FLAC, many frames": (
        made.flac_file(700, block=192, last=100),
        AudioFacts(None, 8.394, 1, 16000, AudioFormat.FLAC),
    ),
    "Vorbis": (
        made.vorbis() + made.ogg_page(8000, bytes(900)) + made.ogg_page(24000, bytes(300)),
        AudioFacts(None, 3.0, 2, 8000, AudioFormat.OGG),
    ),
    "Opus": (
        made.opus() + made.ogg_page(48480, bytes(900)),
        AudioFacts(None, 1.0, 1, 16000, AudioFormat.OPUS),
    ),
    "MPEG-4": (made.mpeg_4_file(), AudioFacts(None, 3.0, None, None, AudioFormat.MPEG_4)),
    "MPEG-4, header behind": (made.mpeg_4_file(front=False), AudioFacts(None, 3.0, None, None, AudioFormat.MPEG_4)),
    "WMA": (made.wma_file(), AudioFacts(None, 3.0, None, None, AudioFormat.WMA)),
}


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a"])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_file_is_read_by_its_content_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    """Media type, duration, channels and rate come from the bytes; only WAV and MP3 are given a Content-Type."""
    content, facts = WHOLE[kind]
    assert probed(tmp_path, content, name) == facts


CUT_OFF = ["WAV", "µ-law", "extensible", "ADPCM", "RF64", "MP3, Xing", "MP3, VBRI", "AIFF", "FLAC", "MPEG-4", "WMA"]


# what must miss, in bytes, to be seen: less than the last frame makes no difference that matters
A_FRAME = {"FLAC": 130, "MP3, Xing": 600, "MP3, VBRI": 600}


@pytest.mark.parametrize("kind", CUT_OFF)
@pytest.mark.parametrize("missing", [2000, 1])
def test_a_cut_off_file_has_no_known_duration(tmp_path: Path, kind: str, missing: int) -> None:
    """The header of a file that was cut off promises more than is there: told as that, and its duration unknown."""
    content, facts = WHOLE[kind]
    found = probed(tmp_path, content[: -max(missing if kind != "FLAC" else 0, A_FRAME.get(kind, 1))])
    assert (found.duration_seconds, found.is_cut_off) == (None, True)
    assert (found.media_type, found.format, found.channels) == (facts.media_type, facts.format, facts.channels)


STREAMED = {
    "ffmpeg": made.wave_file(made.form(), made.chunk(b"data", bytes(16000), 0xFFFFFFFF), length=0xFFFFFFFF),
    "sox": made.wave_file(made.form(), made.chunk(b"data", bytes(16000), 0x7FFFFFDB), length=0x7FFFFFFF),
    "zeros": made.wave_file(made.form(), made.chunk(b"data", bytes(16000), 0), length=0),
    "a header that was never finished": made.wave_file(made.form(), made.chunk(b"data", bytes(16000), 0), length=36),
}


@pytest.mark.parametrize("who", STREAMED)
def test_a_streamed_wav_is_as_long_as_the_file(tmp_path: Path, who: str) -> None:
    """A WAV written to a pipe lacks its size: the rest of the file is sound, its duration by the byte rate."""
    assert probed(tmp_path, STREAMED[who]) == AudioFacts("audio/wav", 1.0, 1, 8000, AudioFormat.WAV)


def test_a_wav_without_sound_has_no_duration(tmp_path: Path) -> None:
    """A finished header with empty data is no streamed file: what stands behind the data is not taken for sound."""
    content = made.wave_file(made.form(), made.chunk(b"data", b""), made.chunk(b"LIST", bytes(16000)))
    facts = AudioFacts("audio/wav", None, 1, 8000, AudioFormat.WAV, flaw=Flaw.NO_AUDIO)
    assert probed(tmp_path, content) == facts


FLAWS: dict[str, tuple[bytes, Flaw | None]] = {
    "WAV, a header alone": (made.wave_file(made.form(), made.chunk(b"data", b"")), Flaw.NO_AUDIO),
    "WAV, no data behind a list": (made.wave_file(made.form(), made.chunk(b"LIST", bytes(500))), Flaw.NO_AUDIO),
    "MP3, a tag alone": (made.id3(500), Flaw.NO_AUDIO),
    "MP3, both tags alone": (made.id3(500) + b"TAG" + bytes(125), Flaw.NO_AUDIO),
    "AMR, a header alone": (b"#!AMR\n", Flaw.NO_AUDIO),
    "MPEG-4, an index alone": (made.mpeg_4_file().split(b"mdat")[0][:-4], Flaw.NO_AUDIO),
    "MPEG-4, no index": (made.atom(b"ftyp", b"M4A \0\0\0\0isom") + made.atom(b"mdat", bytes(99)), Flaw.UNFINISHED),
    "MPEG-4, begun": (made.atom(b"ftyp", b"M4A \0\0\0\0isom"), Flaw.UNFINISHED),
    "WAV, more than it says": (
        made.wave_file(made.form(), made.chunk(b"data", bytes(range(256)) * 200, 800)),
        Flaw.SURPLUS,
    ),
    "WAV, nothing said and much there": (
        made.wave_file(made.form(), made.chunk(b"data", bytes(range(1, 200)) * 200, 2)),
        Flaw.SURPLUS,
    ),
    "WAV, a chunk behind": (
        made.wave_file(made.form(), made.chunk(b"data", bytes(80)), made.chunk(b"id3 ", b"x" * 99)),
        None,
    ),
    "WAV, an odd one and a chunk behind": (
        made.wave_file(made.form(bits=8), made.chunk(b"data", bytes(81)), made.chunk(b"LIST", b"x" * 99)),
        None,
    ),
    "WAV, a tag behind": (made.recording() + b"TAG" + b"x" * 125, None),
    "WAV, zeros behind": (made.recording() + bytes(4000), None),
    "MPEG-4, whole": (made.mpeg_4_file(), None),
    "MPEG-4, index behind": (made.mpeg_4_file(front=False), None),
}


@pytest.mark.parametrize("kind", FLAWS)
def test_a_recording_without_sound_or_with_more_than_it_says_is_known(tmp_path: Path, kind: str) -> None:
    """No audio in it, never finished, more than the header says: then no duration is told either."""
    content, flaw = FLAWS[kind]
    facts = probed(tmp_path, content)
    assert facts.flaw == flaw
    assert facts.flaw is None or facts.duration_seconds is None


def test_a_chunk_of_odd_length_may_lack_its_last_byte(tmp_path: Path) -> None:
    """Some programs leave out the byte that makes a chunk even: the data behind it is found all the same."""
    odd = made.chunk(b"LIST", b"INFO" + b"x" * 21)[:-1]
    content = made.wave_file(made.form(), odd, made.chunk(b"data", bytes(16000)))
    assert probed(tmp_path, content) == AudioFacts("audio/wav", 1.0, 1, 8000, AudioFormat.WAV)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x1a\x45\xdf\xa3" + bytes(60), "WebM"),
        (b".snd" + bytes(60), "AU"),
        (b"caff" + bytes(60), "CAF"),
        (b"RIFX" + bytes(4) + b"WAVE" + bytes(60), "RIFX"),
        (b"RIFF" + bytes(4) + b"AVI " + bytes(60), "AVI"),
        (b"wvpk" + bytes(60), "WavPack"),
    ],
)
def test_a_format_that_is_not_known_to_be_taken_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    """The warning says what the file is."""
    (result,) = recordings.findings(probed(tmp_path, content), "a.bin", None, {})
    assert name in result.remedy


UNKNOWN: dict[str, tuple[bytes, AudioFacts]] = {
    "MP3, bit rates that change, no count": (
        made.mp3_file([8] * 50 + [4] * 100 + [8] * 50),
        AudioFacts("audio/mpeg", None, 1, 16000, AudioFormat.MP3),
    ),
    "MP3, bit rates that seldom change, no count": (
        made.mp3_file(([8] * 7 + [4]) * 50),
        AudioFacts("audio/mpeg", None, 1, 16000, AudioFormat.MP3),
    ),
    "MP3, two files joined": (
        made.mp3_file([8] * 200, counted=b"Info") * 2,
        AudioFacts("audio/mpeg", None, 1, 16000, AudioFormat.MP3),
    ),
    "MP3, a long trailer": (
        made.mp3_file([8] * 50) + b"APETAGEX" + bytes(5000),
        AudioFacts("audio/mpeg", None, 1, 16000, AudioFormat.MP3),
    ),
    "MP3, a tag and zeros": (made.id3(10) + bytes(5000), AudioFacts("audio/mpeg", format=AudioFormat.MP3)),
    "MP3, a tag longer than the file": (
        made.id3(5000)[:100],
        AudioFacts("audio/mpeg", format=AudioFormat.MP3, flaw=Flaw.NO_AUDIO),
    ),
    "MP3, one frame": (made.mp3_frame(), AudioFacts("audio/mpeg", None, 1, 16000, AudioFormat.MP3)),
    "MP3 in WAV, no fact": (
        made.wave_file(made.form(0x55, 1, 16000, 0, block=1), made.chunk(b"data", made.mp3_file([8] * 9))),
        AudioFacts(None, None, 1, 16000, AudioFormat.WAV_MP3),
    ),
    "WAV, blocks that do not fit": (
        made.wave_file(made.form(1, 2, 8000, 16, block=1), made.chunk(b"data", bytes(400))),
        AudioFacts("audio/wav", None, 2, 8000, AudioFormat.WAV),
    ),
    "WAV, nothing but its name": (b"RIFF\0\0\0\0WAVE", AudioFacts("audio/wav", format=AudioFormat.WAV)),
    "WAV, no data": (
        made.wave_file(made.form()),
        AudioFacts("audio/wav", None, 1, 8000, AudioFormat.WAV, flaw=Flaw.NO_AUDIO),
    ),
    "WAV, no rate": (
        made.wave_file(made.form(rate=0), made.chunk(b"data", bytes(9))),
        AudioFacts("audio/wav", None, 1, None, AudioFormat.WAV),
    ),
    "Vorbis, of a broadcast": (
        made.vorbis() + made.ogg_page(10**9, bytes(900)) + made.ogg_page(10**9 + 8000, bytes(9)),
        AudioFacts(None, None, 2, 8000, AudioFormat.OGG),
    ),
    "Vorbis, two files joined": (
        made.vorbis() + made.ogg_page(8000, bytes(90)) + made.ogg_page(8000, bytes(90), serial=8),
        AudioFacts(None, None, 2, 8000, AudioFormat.OGG),
    ),
    "Ogg, neither Vorbis nor Opus": (made.ogg_page(0, b"Speex   "), AudioFacts(format=AudioFormat.OGG)),
    "MPEG-4, in fragments": (
        made.mpeg_4_file() + made.atom(b"moof", bytes(9)),
        AudioFacts(format=AudioFormat.MPEG_4),
    ),
    "MPEG-4, no header": (
        made.mpeg_4_file(front=False)[:4000],
        AudioFacts(format=AudioFormat.MPEG_4, flaw=Flaw.UNFINISHED),
    ),
    "AIFF, compressed": (
        made.aiff_file(kind=b"AIFC", compression=b"ima4"),
        AudioFacts(None, None, 1, 8000, AudioFormat.AIFF),
    ),
    "FLAC, frames of any length": (
        made.flac_file(longest=0xFFFFFF),
        AudioFacts(None, None, 1, 16000, AudioFormat.FLAC),
    ),
    "WMA, a broadcast": (made.wma_file(size=3000, flags=1), AudioFacts(format=AudioFormat.WMA)),
    "FLAC, no count": (
        made.flac_file(1, last=1)[:8] + bytes(10) + (16000 << 44 | 15 << 36).to_bytes(8, "big") + bytes(300),
        AudioFacts(None, None, 1, 16000, AudioFormat.FLAC),
    ),
    "a web page": (made.HTML, AudioFacts(format=AudioFormat.TEXT)),
    "a web page, cut in a character": ("é".encode() * 300, AudioFacts(format=AudioFormat.TEXT)),
    "JSON": (b'\xef\xbb\xbf{"message": "not found"}', AudioFacts(format=AudioFormat.TEXT)),
    "zeros": (bytes(1000), AudioFacts()),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), AudioFacts()),
    "UTF-16": ("<html>".encode("utf-16"), AudioFacts()),
    "nothing": (b"", AudioFacts()),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_certain_is_unknown(tmp_path: Path, kind: str) -> None:
    """A duration that would have to be guessed is none, and what is no recording is not called one."""
    content, facts = UNKNOWN[kind]
    assert probed(tmp_path, content, "a.wav") == facts


@pytest.mark.parametrize("name", ["a.mp3", "A.MP3"])
def test_the_ending_tells_where_the_content_does_not(tmp_path: Path, name: str) -> None:
    """An MP3 file with rubbish before its first frame is still sent as what it is called."""
    assert probed(tmp_path, bytes(100), name) == AudioFacts("audio/mpeg")
    assert probed(tmp_path, made.HTML, name) == AudioFacts(format=AudioFormat.TEXT)


@pytest.mark.parametrize("head", [0xE3, 0xF3, 0xFB, 0xFA, 0xF2])
def test_every_version_of_mp3_is_known(tmp_path: Path, head: int) -> None:
    """MPEG-1, 2 and 2.5, with and without checksum."""
    assert probed(tmp_path, bytes([0xFF, head, 0x90, 0x00]) + bytes(100)).media_type == "audio/mpeg"


@pytest.mark.parametrize("head", [0xF0, 0xF1, 0xF8, 0xF9])
def test_aac_is_never_taken_for_mp3(tmp_path: Path, head: int) -> None:
    """An ADTS frame begins with the same eleven bits; its layer is one that MP3 has not."""
    found = probed(tmp_path, bytes([0xFF, head, 0x50, 0x80, 0x10, 0x00, 0xFC]) + bytes(100), "a.mp3")
    assert (found.media_type, found.format) == (None, AudioFormat.AAC)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.[wm][ap][v3]")), ids=lambda path: str(path.name))
def test_the_samples_are_known_in_full(path: Path) -> None:
    """Real recordings, of several programs: nothing about them is unknown."""
    found = audio.probe(path)
    assert found.format in ENDINGS[path.suffix]
    assert None not in (found.media_type, found.duration_seconds, found.channels, found.sample_rate)
    if path.suffix == ".mp3":
        assert found.duration_seconds == pytest.approx(4.86, abs=0.05)


def test_a_file_that_cannot_be_read_has_no_facts(tmp_path: Path) -> None:
    """A file that is gone, a folder, or a pipe in its place is no reason to end, nor to wait."""
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("none.wav", ".", "pipe.wav"):
        assert audio.probe(tmp_path / name) == AudioFacts()


BEGINNINGS = st.sampled_from([content[:64] for content, _ in WHOLE.values()]) | st.binary(max_size=64)


@settings(max_examples=2 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), BEGINNINGS, st.binary(max_size=2000))
def test_no_content_is_too_broken_to_be_probed(tmp_path: Path, before: bytes, beginning: bytes, rest: bytes) -> None:
    """Whatever bytes a file has, probing ends with facts that make sense: no negative or endless duration."""
    for content in (beginning + rest, before + beginning + rest):
        found = probed(tmp_path, content)
        assert found.duration_seconds is None or 0 < found.duration_seconds < 10**10
        assert found.channels is None or found.channels > 0
        assert found.sample_rate is None or found.sample_rate > 0


@settings(max_examples=2 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([kind for kind in WHOLE if WHOLE[kind][1].duration_seconds]),
    share=st.floats(0.0, 0.97),
)
def test_a_part_of_a_file_is_never_said_to_be_longer_than_it_is(tmp_path: Path, kind: str, share: float) -> None:
    """However much of a file is left, its duration is unknown, or that of what is left, or was told to be cut off."""
    content, facts = WHOLE[kind]
    found = probed(tmp_path, content[: int(len(content) * share)])
    assert found.duration_seconds is None or found.duration_seconds <= (facts.duration_seconds or 0)
    if kind in CUT_OFF and kind not in ("FLAC", "AIFF"):
        assert found.duration_seconds is None or share > 0.9
