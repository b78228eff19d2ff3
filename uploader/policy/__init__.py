"""Decides, as pure functions: what a reply means, what comes next, how long to wait, what the limit is.

Nothing in here knows asyncio, a clock or chance: time and jitter come in as arguments.
"""
