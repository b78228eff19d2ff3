"""`uploader sandbox`: serves the sandbox until a signal."""

import asyncio
from pathlib import Path

from uploader.cli.signals import stop_signals
from uploader.errors import ExitCode
from uploader.run.target import far_options
from uploader.sandbox import Faults, Sandbox, SandboxSettings, load_faults, serve
from uploader.settings import Settings


def serve_sandbox(
    settings: Settings,
    *,
    host: str,
    port: int,
    limit: int,
    job_seconds: float,
    job_seconds_per_mebibyte: float,
    job_scatter: float,
    answer_seconds: float,
    token_seconds: float,
    token_left: float | None,
    secret_file: Path | None,
    faults: Path | None,
    journal: Path | None,
    certificate: Path | None,
    key: Path | None,
    allowed_parameters: tuple[str, ...],
) -> ExitCode:
    """Serve the sandbox until a signal, which is its usual end."""
    played = SandboxSettings(
        host=host,
        port=port,
        limit=limit,
        job_seconds=job_seconds,
        job_seconds_per_mebibyte=job_seconds_per_mebibyte,
        job_scatter=job_scatter,
        answer_seconds=answer_seconds,
        token_seconds=token_seconds,
        token_left=token_left,
        app_secret_path=secret_file,
        faults=load_faults(faults) if faults is not None else Faults(),
        journal_path=journal,
        certificate_path=certificate,
        key_path=key,
        allowed_parameters=frozenset(allowed_parameters),
        **far_options(settings),
    )
    asyncio.run(_serve(played))
    return ExitCode.DONE


async def _serve(settings: SandboxSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stop.set)
    await serve(settings, _announce, stop)


def _announce(sandbox: Sandbox) -> None:
    print(f"export UPLOADER_BASE_URL={sandbox.base_url}")  # noqa: T201 - for `eval` and for reading
    print(f"export UPLOADER_APP_ID={sandbox.settings.app_id}")  # noqa: T201
    print(_secret_line(sandbox.settings), flush=True)  # noqa: T201


def _secret_line(settings: SandboxSettings) -> str:
    if settings.app_secret_path is not None:
        return f"export UPLOADER_APP_SECRET_FILE={settings.app_secret_path.absolute()}"
    return f"export UPLOADER_APP_SECRET={settings.app_secret}"
