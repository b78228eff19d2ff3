"""The files of the makespan rows: 300 recordings of 60 conversations with heavy-tailed sizes, 36 MiB in all.

Those of the nights are all of one size.
"""

import csv
import hashlib
import io
import random
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.schedule import Job
from uploader.sandbox import SandboxSettings
from uploader.sandbox.fault_plan import scatter

SEED = 6
CONVERSATIONS = 60
FILES = 300
MEBIBYTES = 36
WAVE_HEADER_BYTES = 44
SIZES_SIGMA = 1.2
"""Of the logarithms of the sizes: a few files hold much of all audio."""
LANES_SIGMA = 0.5
"""Of the logarithms of how often a conversation comes."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A row of the manifest, and what its job takes at the sandbox."""

    conversation: str
    name: str
    content: bytes
    sha256: str
    job: Job


def recordings(settings: SandboxSettings, seed: int = SEED, files: int = FILES) -> list[Recording]:
    """The corpus, in the manifest's order; the same seed always makes the same bytes.

    Args:
        settings: The sandbox's, whose jobs these become.
        seed: What it is drawn from.
        files: How many; a smaller corpus has as much less audio.
    """
    draw = random.Random(seed)
    conversations = [str(5815170693500000 + number) for number in range(max(1, CONVERSATIONS * files // FILES))]
    weights = [draw.lognormvariate(0.0, LANES_SIGMA) for _ in conversations]
    chosen = conversations + draw.choices(conversations, weights, k=files - len(conversations))
    draw.shuffle(chosen)
    shares = [draw.lognormvariate(0.0, SIZES_SIGMA) for _ in chosen]
    unit = MEBIBYTES * 2**20 * files / FILES / sum(shares)
    return [
        _recording(conversation, number, _wave(draw, int(share * unit)), settings)
        for number, (conversation, share) in enumerate(zip(chosen, shares, strict=True))
    ]


def alike(settings: SandboxSettings, lanes: Sequence[tuple[int, int]], size: int, seed: int = SEED) -> list[Recording]:
    """Make recordings of one size, in the manifest's order: that of the draw.

    Args:
        settings: The sandbox's, whose jobs these become.
        lanes: So many conversations, of so many files each.
        size: Bytes of each file.
        seed: Of the draw; the same one always makes the same bytes.
    """
    draw = random.Random(seed)
    counts = [files for conversations, files in lanes for _ in range(conversations)]
    chosen = [str(5815170693600000 + number) for number, files in enumerate(counts) for _ in range(files)]
    draw.shuffle(chosen)
    return [
        _recording(conversation, number, _wave(draw, size - WAVE_HEADER_BYTES), settings)
        for number, conversation in enumerate(chosen)
    ]


def write(folder: Path, corpus: Sequence[Recording]) -> Path:
    """Write the files and their manifest into a folder; the manifest's path."""
    for one in corpus:
        (folder / one.name).write_bytes(one.content)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["conversationId", "audioPath"])
        lines.writerows([one.conversation, one.name] for one in corpus)
    return manifest


def _wave(draw: random.Random, size: int) -> bytes:
    """Telephone audio of about so many bytes: noise."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(draw.randbytes(max(size // 2, 1) * 2))
    return file.getvalue()


def _recording(conversation: str, number: int, content: bytes, settings: SandboxSettings) -> Recording:
    sha256 = hashlib.sha256(content).hexdigest()
    seconds = settings.seconds_of_job(len(content), scatter(settings.faults.seed, conversation, sha256))
    return Recording(conversation, f"{number:03}.wav", content, sha256, Job(conversation, seconds))
