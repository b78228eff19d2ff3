"""`uploader serve`: the signals and the live lines of a service over an inbox."""

import asyncio
from pathlib import Path

from uploader import logs
from uploader.cli.running import live_view, stop_at_signals
from uploader.errors import ExitCode
from uploader.serve.service import Service
from uploader.settings import Settings


def serve_inbox(settings: Settings, inbox: Path) -> ExitCode:
    """Serve an inbox until a signal, which is its usual end."""

    async def serve() -> ExitCode:
        return await Service(settings, inbox, stop, on_event=logs.write, on_progress=on_progress).run()

    stop = stop_at_signals()
    with live_view(settings) as on_progress:
        return asyncio.run(serve())
