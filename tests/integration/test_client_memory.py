"""Memory does not grow with the size of a file."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tests.integration.servers import MEBIBYTE, audio, authority

ROOT = Path(__file__).parents[2]
LARGE = 256 * MEBIBYTE
MOST_KIBIBYTES = 64 * 1024


@asynccontextmanager
async def running(function: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one of the functions of ``servers`` in its own process."""
    code = f"import sys; from tests.integration import servers; servers.{function}(*sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Read the next line that a process prints."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the process ended without a word"
    return line.decode().strip()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process's peak memory")
@pytest.mark.parametrize("tls", [False, True])
async def test_a_large_file_needs_no_more_memory_than_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """256 MiB go out, all of them, and the process's peak memory rises by less than 64 MiB."""
    certificate = ""
    if tls:
        unknown = authority(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(unknown.bundle))
        certificate = str(tmp_path / "server.pem")
        unknown.authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    small, large = audio(tmp_path, MEBIBYTE), tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(LARGE)
    async with running("count_bodies", certificate) as server:
        base_url = await line_of(server)
        async with running("upload_and_measure", base_url, str(small), str(large)) as client:
            told: dict[str, Any] = json.loads(await line_of(client))
    assert told["jobs"] == [str(MEBIBYTE), str(LARGE)]
    assert told["rise"] < MOST_KIBIBYTES
