"""Decides what the account's limit of concurrent jobs is."""

import re

STATED_LIMIT_BELIEVED_SECONDS = 24 * 3600.0

_STATED = re.compile(r"(\d{1,6})\D{0,16}number of concurrent jobs|limit of (?:maximum of )?\D{0,3}(\d{1,6})")


def stated_limit(message: str) -> int | None:
    """Read the limit X out of a 429's text (put-audio.md, API Limit Error); None where it states none."""
    found = _STATED.search(message)
    if found is None:
        return None
    stated = int(found.group(1) or found.group(2))
    return stated if stated > 0 else None


def limit_in_force(configured: int, stated: int | None, stated_at: float | None, now: float) -> int:
    """The smallest of what is configured and what a 429 stated, as long as that is believed.

    Args:
        configured: The limit of the settings.
        stated: X of the latest 429 that stated one.
        stated_at: When it did, in seconds since the epoch.
        now: The time in seconds since the epoch.
    """
    if stated is None or stated_at is None or now - stated_at > STATED_LIMIT_BELIEVED_SECONDS:
        return configured
    return min(configured, stated)
