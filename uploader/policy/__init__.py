"""Decides, as pure functions: the meaning of a reply, the next state, the waits, the limit.

No module of it imports asyncio, a clock or a random source: time, in seconds of the caller's clock,
and jitter are arguments.
"""
