"""put-audio.md's own curl, Node and Python examples, run against the sandbox.

What is theirs stands in `examples/` as the documentation has it. What is ours stands here: what a reader has to fill
in (`filled`: address, token, conversation, file), and the corrections without which an example gets no 201.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.by_hand import Client, playing
from uploader.sandbox.entries import PutEntry

EXAMPLES = Path(__file__).parent / "examples"
SAMPLE = Path(__file__).parents[2] / "config/sample"
WAV = SAMPLE / "support-call-1.wav"
CONVERSATION = "5815170693595136"
DEADLINE_SECONDS = 60.0
# a slower network needs the package installed beforehand
FETCH_SECONDS = 10.0
BASE_URL = "https://api.symbl.ai"

AUTH_TOKEN = ("Bearer ${authToken}", "Bearer ${accessToken}")
SLASH = ("process/audio' + ", "process/audio/' + ")
LENGTH = (
    "    'Content-Type': 'audio/wav'\n",
    f"    'Content-Type': 'audio/wav', 'Content-Length': {WAV.stat().st_size}\n",
)
# no correction: Node keeps connections, and an ended program waits for them as long as the server does
CLOSE = ("json: true,", "json: true, agent: new (require('http').Agent)({keepAlive: false}),")
PARAMS = ("params=json.dumps(params)", "params=params")


@dataclass(frozen=True)
class Ran:
    """What an example did."""

    code: int
    out: str
    err: str
    puts: list[PutEntry]


def filled(name: str, blanks: Mapping[str, str], *corrections: tuple[str, str]) -> str:
    """An example with its blanks filled in, and corrected; whatever is replaced has to be there."""
    text = (EXAMPLES / f"{name}.txt").read_text(encoding="utf-8")
    for theirs, ours in (*blanks.items(), *corrections):
        assert theirs in text, f"{name}: {theirs!r} is not in it"
        text = text.replace(theirs, ours)
    return text


async def run(client: Client, folder: Path, program: str, text: str, **environment: str) -> Ran:
    """Runs an example as a program of its own, which sees no proxy."""
    script = folder / "example"
    script.write_text(text, encoding="utf-8")
    known = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    ended = await asyncio.to_thread(_end_of, [program, str(script)], known)
    return Ran(ended.returncode, ended.stdout, ended.stderr, client.sandbox.journal.puts())


def _end_of(command: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )


def check_accepted(put: PutEntry, recording: Path, kind: str, name: str) -> None:
    """The PUT was taken: this recording for this conversation, with what the example wants to say of it."""
    assert (put.status, put.conversation_id, put.headers["content-type"]) == (201, CONVERSATION, kind)
    assert put.sha256 == hashlib.sha256(recording.read_bytes()).hexdigest()
    assert put.parameters == {"name": name, "confidenceThreshold": 0.6}
    assert put.deprecated == ()


async def test_the_curl_example_is_right(tmp_path: Path) -> None:
    """Both calls get a 201 as they stand."""
    mp3 = tmp_path / "audio.mp3"
    mp3.write_bytes(b"ID3" + bytes(2_000_000))  # large enough for curl to ask for leave to send
    files = {"/Users/adamvoliva/Downloads/sample_audio_file.wav": str(WAV), "/file/location/audio.mp3": str(mp3)}
    async with playing() as client:
        text = filled("curl", {BASE_URL: client.sandbox.base_url, **files})
        ran = await run(client, tmp_path, "sh", text, CONVERSATION_ID=CONVERSATION, AUTH_TOKEN=client.token)
    wave, mpeg = ran.puts
    check_accepted(wave, WAV, "audio/wav", "Business Meeting")
    check_accepted(mpeg, mp3, "audio/mpeg", "Business Meeting")
    assert all(f'"jobId": "{put.job_id}"' in ran.out for put in ran.puts)


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package `request`, which the Node example needs: NODE_PATH, else fetched if that is quick."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        pytest.skip("the Node example needs node")
    there = os.environ.get("NODE_PATH", "")
    if there and subprocess.run([node, "-e", "require('request')"], capture_output=True, check=False).returncode == 0:
        return Path(there)
    if npm is None:
        pytest.skip("the Node example needs npm, or the package request in NODE_PATH")
    folder = tmp_path_factory.mktemp("node")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--fetch-retries=0")
    fetching = [npm, "install", *quiet, "--prefix", str(folder), "request@2"]
    # a process group of its own: npm's children hold its pipes open after it is killed
    with subprocess.Popen(
        fetching, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, message = process.communicate(timeout=FETCH_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            message = f"not within {FETCH_SECONDS:g} s"
    if process.returncode != 0:
        pytest.skip(f"npm could not fetch the package request (NODE_PATH can name it): {message.strip()[-500:]}")
    return folder / "node_modules"


async def run_node(tmp_path: Path, modules: Path, *corrections: tuple[str, str]) -> Ran:
    """Runs the Node example."""
    async with playing() as client:
        blanks = {
            BASE_URL: client.sandbox.base_url,
            "= AUTH_TOKEN;": f"= '{client.token}';",
            "your_conversationId": f"'{CONVERSATION}'",
            "/file/location/audio.wav": str(WAV),
        }
        text = filled("node", blanks, CLOSE, *corrections)
        return await run(client, tmp_path, "node", text, NODE_PATH=str(modules))


@pytest.mark.parametrize(
    ("corrections", "told", "reason"),
    [
        ((), "ReferenceError: authToken is not defined", None),
        ((AUTH_TOKEN,), "it's metadata you asked could not be found", None),
        ((AUTH_TOKEN, SLASH), "Bad Request! Please refer docs for correct input fields.", "there is no Content-Length"),
    ],
    ids=["as it stands", "token named", "slash added"],
)
async def test_the_node_example_is_wrong_in_three_places(
    tmp_path: Path, node_modules: Path, corrections: tuple[tuple[str, str], ...], told: str, reason: str | None
) -> None:
    """It names a token that it never sets, glues the id to the path, and sends its body in chunks without a length."""
    ran = await run_node(tmp_path, node_modules, *corrections)
    assert ran.code == 1
    assert told in ran.err
    assert [(put.status, put.reason is not None and put.reason.partition(":")[0]) for put in ran.puts] == (
        [(400, reason)] if reason else []
    )


async def test_the_corrected_node_example_is_accepted(tmp_path: Path, node_modules: Path) -> None:
    """With its three corrections it gets a 201."""
    ran = await run_node(tmp_path, node_modules, AUTH_TOKEN, SLASH, LENGTH)
    [put] = ran.puts
    check_accepted(put, WAV, "audio/wav", "BusinessMeeting")
    assert (ran.code, "Status code:  201" in ran.out, str(put.job_id) in ran.out) == (0, True, True)


async def run_python(tmp_path: Path, *corrections: tuple[str, str]) -> Ran:
    """Runs the Python example."""
    async with playing() as client:
        blanks = {
            BASE_URL: client.sandbox.base_url,
            "your_access_token": client.token,
            "your_conversation_id": CONVERSATION,
            "destination/of/file/file.wav": str(WAV),
        }
        return await run(client, tmp_path, sys.executable, filled("python", blanks, *corrections))


async def test_the_python_example_is_wrong_in_one_place(tmp_path: Path) -> None:
    """As it stands its parameters are one nameless blob, which must not pass unseen."""
    ran = await run_python(tmp_path)
    [put] = ran.puts
    assert (put.status, put.query) == (400, (('{"name": "BusinessMeeting", "confidenceThreshold": 0.6}', ""),))
    assert "no key=value" in str(put.reason)
    assert ran.out == "Bad Request! Please refer docs for correct input fields.\n"


async def test_the_corrected_python_example_is_accepted(tmp_path: Path) -> None:
    """With its one correction it gets a 201."""
    ran = await run_python(tmp_path, PARAMS)
    [put] = ran.puts
    check_accepted(put, WAV, "audio/wave", "BusinessMeeting")
    assert ran.out == f"conversationId => {CONVERSATION}\njobId => {put.job_id}\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("webhookUrl", None),
        ("customVocabulary", "customVocabulary: this is no JSON text"),
        ("detectPhrases", "detectPhrases: write true or false"),
        ("enableSeparateRecognitionPerChannel", "enableSeparateRecognitionPerChannel: write true or false"),
        ("channelMetadata", "channelMetadata: this is no JSON text"),
        ("languageCode", None),
    ],
)
async def test_the_python_examples_optional_lines(tmp_path: Path, name: str, reason: str | None) -> None:
    """Of the lines that are commented out, only text passes as written: Python's True, lists and objects do not."""
    ran = await run_python(tmp_path, PARAMS, (f"# '{name}': ", f"'{name}': "))
    [put] = ran.puts
    if reason is None:
        assert (put.status, name in put.parameters) == (201, True)
    else:
        assert (put.status, str(put.reason)[: len(reason)]) == (400, reason)
