"""Where and when something was measured."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def described() -> str:
    """The machine, its Python, the library that speaks HTTP, and the date, on one line."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    python = f"Python {platform.python_version()}, aiohttp {version('aiohttp')}"
    return f"{os.cpu_count()} cores ({_processor()}), {platform.system()}, {python}, {now}"


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
