"""A manifest of a million rows: `pytest tests/benchmarks/test_plan.py -s` tells seconds and memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROWS = 1_000_000
MOST_MEBIBYTES = 250


def _two_columns(number: int) -> str:
    return f"{5815170693590000 + number},calls/2026/11/call-{number}.wav\n"


def _nine_columns(number: int) -> str:
    words = '"[""Platform"",""Targets""]"'
    return f"{5815170693590000 + number // 2},calls/{number}.wav,Call {number},0.6,TRUE,{words},true,2,T-{number}\n"


def _every_parameter(number: int) -> str:
    row = {
        "conversationId": str(5815170693590000 + number // 2),
        "audioPath": f"calls/{number}.wav",
        "name": f"Call {number}",
        "webhookUrl": "https://example.com/jobs",
        "customVocabulary": ["Platform", "Targets"],
        "confidenceThreshold": 0.6,
        "detectPhrases": True,
        "entities": [{"customType": "identify_colour", "text": "blue"}],
        "detectEntities": True,
        "enableSeparateRecognitionPerChannel": True,
        "channelMetadata": [{"channel": 1, "speaker": {"name": "Robert", "email": "robert@example.com"}}],
        "languageCode": "en-US",
        "mode": "phone",
        "trackers": [{"name": "Budget", "vocabulary": ["price", "too dear"]}],
        "enableAllTrackers": False,
        "enableSummary": False,
        "enableSpeakerDiarization": True,
        "diarizationSpeakerCount": 2,
        "x-ticket": f"T-{number}",
    }
    return json.dumps(row) + "\n"


NINE = (
    "conversationId,audioPath,name,confidenceThreshold,detectPhrases,customVocabulary,enableSpeakerDiarization,"
    "diarizationSpeakerCount,x-ticket\n"
)


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("two.csv", "conversationId,audioPath\n", _two_columns),
        ("nine.csv", NINE, _nine_columns),
        ("every.jsonl", "", _every_parameter),
    ],
)
def test_a_million_rows_are_checked_in_little_memory(
    tmp_path: Path, name: str, header: str, row: Callable[[int], str]
) -> None:
    """`plan --no-audio`: under 250 MiB with two columns, with nine, and with every parameter; the time is printed."""
    manifest = tmp_path / name
    with manifest.open("w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(row(number) for number in range(ROWS))
    command = [sys.executable, "-m", "uploader", "plan", str(manifest), "--no-audio", "--json"]
    begun = time.monotonic()
    with (tmp_path / "plan.json").open("wb") as out:
        running = subprocess.Popen([*command, "--ledger", f"sqlite:///{tmp_path}/none.db"], stdout=out)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    seconds, mebibytes = time.monotonic() - begun, used.ru_maxrss / 1024
    print(f"{name}: {ROWS} rows in {seconds:.1f} s ({used.ru_utime:.1f} s of CPU), {mebibytes:.0f} MiB")  # noqa: T201 - what it is for
    report = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert (running.returncode, report["rows"], report["invalid"]) == (0, ROWS, 0)
    assert mebibytes < MOST_MEBIBYTES
