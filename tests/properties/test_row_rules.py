"""The quick check of a row says the same as the full one, whatever the row, its file and the config hold."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import recordings as made
from uploader import audio
from uploader.audio.positioned import PositionedReader
from uploader.audio.sniffing import HEAD_BYTES
from uploader.audio.wave import plain_wave, read_wave
from uploader.manifest.formats import RawRow
from uploader.manifest.rules import RowRules

FILES = {
    "mono.wav": made.recording(1.0),
    "stereo.wav": made.recording(1.0, 2, 16000),
    "wide.wav": made.recording(1.0, 1, 16000),
    "cut.wav": made.recording(1.0)[:-100],
    "page.wav": made.HTML,
    "noise.bin": bytes(range(256)),
    "empty.wav": b"",
    "named.mp3": made.recording(0.5),
    "call.mp3": made.mp3_file([8] * 20),
    "call.ogg": made.ogg_page(0, made.vorbis()) + made.ogg_page(8000, bytes(10)),
    "call.m4a": made.mpeg_4_file(),
}
PATHS = [
    *FILES,
    *("none.wav", "begun.wav", "folder", "link.wav", "out.wav", "../out.wav"),
    *("way/mono.wav", "way/../mono.wav", "./mono.wav"),
    *("MONO.wav", "way\\mono.wav", "~/mono.wav", "file:///mono.wav", "mono%2ewav", "mono.wav\u200b"),
    *("mono.wav/", "", " mono.wav", "mo\tno.wav", "mono\0.wav", ".wav", "begun.wav/"),
]
IDS = ["5815170693595136", "a-b_c", "", ".", "..", "a b", "x\ny", "\u00e9", "1e15", "=1"]
IDS += ["5.8E+15", "5.8e15", "nan", "NULL", "581.0", "5-1", "\ufeff1", "1\u00a0", "'581", "https://h/1", "#N/A"]
CHANNELS = '[{"channel": 2, "speaker": {"name": "R"}}]'
CELLS: Mapping[str, Any] = {
    "contentType": st.sampled_from(["audio/wav", "audio/mpeg", "audio/ogg", "x"]),
    "mode": st.sampled_from(["phone", "default", "loud"]),
    "name": st.sampled_from(["Q1", "Q2"]),
    "enableSeparateRecognitionPerChannel": st.sampled_from(["true", "false"]),
    "channelMetadata": st.sampled_from([CHANNELS, "["]),
    "enableSpeakerDiarization": st.just("true"),
    "languageCode": st.sampled_from(["en-US", "de-DE", "?"]),
    "x-ticket": st.sampled_from(["", "T-1"]),
}
ROWS = st.fixed_dictionaries(
    {"conversationId": st.sampled_from(IDS), "audioPath": st.sampled_from(PATHS)}, optional=dict(CELLS)
)
DEFAULTS = st.sampled_from(
    [{}, {}, {"mode": "phone"}, {"enableSeparateRecognitionPerChannel": True}, {"diarizationSpeakerCount": 2}]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder of recordings of all kinds, links that stay and links that leave."""
    folder = tmp_path_factory.mktemp("audio") / "root"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder.parent / "out.wav").write_bytes(made.recording())
    (folder / "link.wav").symlink_to("mono.wav")
    (folder / "out.wav").symlink_to("../out.wav")
    (folder / "way").symlink_to(".")
    return folder


@given(
    rows=st.lists(ROWS, min_size=1, max_size=5),
    defaults=DEFAULTS,
    confined=st.booleans(),
    check_files=st.sampled_from(["examine", "signature", "not"]),
    is_text=st.booleans(),
)
@settings(deadline=None, max_examples=4 * settings().max_examples)
def test_the_quick_check_says_what_the_full_one_says(
    root: Path, rows: list[dict[str, Any]], defaults: Mapping[str, Any], confined: bool, check_files: str, is_text: bool
) -> None:
    """Row by row, with what is remembered of the rows before: valid or not, problems, warnings, hints and values."""
    rules = RowRules(
        root,
        confined,
        lambda _, path, __: os.path.basename(path) == "begun.wav",  # noqa: PTH119
        defaults,
        summary_is_served=True,
        check_files=check_files != "not",
        examine=audio.examine if check_files == "examine" else None,
    )
    for line, values in enumerate(rows, start=2):
        raw = RawRow(line, values, (), is_text)
        quick, full = rules.check(raw), rules.full(raw)
        assert type(quick) is type(full)
        assert quick == full


HEADERS = st.builds(
    lambda tag, channels, rate, bits, block, length, data: made.wave_file(
        made.form(tag, channels, rate, bits, block=block), made.chunk(b"data", bytes(data), length)
    ),
    st.sampled_from([1, 1, 1, 3, 0x55, 0xFFFE]),
    st.integers(0, 3),
    st.sampled_from([0, 8000, 16000]),
    st.sampled_from([0, 8, 12, 16, 24]),
    st.none() | st.integers(0, 6),
    st.none() | st.integers(0, 200),
    st.integers(0, 100),
)


@given(content=HEADERS, changed=st.none() | st.tuples(st.integers(0, 50), st.integers(0, 255)))
@settings(max_examples=4 * settings().max_examples)
def test_a_plain_wave_header_is_read_as_any_other(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, changed: tuple[int, int] | None
) -> None:
    """The quick reader of WAV headers agrees with the full one wherever it answers."""
    written = bytearray(content)
    if changed is not None and changed[0] < len(written):
        written[changed[0]] = changed[1]
    path = tmp_path_factory.getbasetemp() / "a.wav"
    path.write_bytes(written)
    quick = plain_wave(bytes(written[:HEAD_BYTES]), len(written))
    if quick is not None:
        with path.open("rb") as file:
            full = read_wave(PositionedReader(file.fileno(), len(written), bytes(written[:HEAD_BYTES])), len(written))
        assert (full.channels, full.sample_rate, full.duration_seconds, full.is_cut_off) == (*quick, False)
        assert full.format_tag == 1
