"""Decides of insights: which parts, what is still true of a file that stands there, what an answer is good for."""

import difflib
import hashlib
import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from uploader.errors import UsageError
from uploader.model import Answer, ConversationFacts
from uploader.policy.parts import PARTS, Part

PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_")
"""Bytes that stand for themselves in a file name; capitals do not: many file systems take them for small ones."""
LONGEST_NAME = 160
"""Of a file name without its ending; file systems take 255 bytes, a temporary name beside it is longer."""
NOT_FINAL = frozenset([401, 408, 425, 429])


class Kept(NamedTuple):
    """What a file says of itself: what was completed when it was fetched, and which parts it has."""

    completed: Mapping[str, Any]
    members: Collection[str]


class Plan(NamedTuple):
    """What is to be fetched for a file, and which of its parts are still true."""

    fetch: Sequence[Part]
    keep: Sequence[Part]


def chosen(names: Collection[str]) -> tuple[Part, ...]:
    """The parts of these names, in the order in which they are asked for; all of them where none is named.

    Raises:
        UsageError: There is no such part.
    """
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError(f"--only (or [insights] only) {name!r}: no such part{meant}: there are {', '.join(known)}")
    return tuple(part for part in PARTS if part.name in names or not names)


def plan(wanted: Sequence[Part], kept: Kept | None, completed: Mapping[str, Any], *, again: bool) -> Plan:
    """Tell what a file lacks: all that is wanted where something was appended since, else what it has not.

    Args:
        wanted: The parts that are asked for.
        kept: What the file says of itself, None where there is none.
        completed: What the ledger knows to be completed now, in the file's words.
        again: Whether what is wanted is to be fetched in any case.
    """
    still_true = kept.members if kept is not None and kept.completed == completed else ()
    fetch = [part for part in wanted if again or part.member not in still_true]
    return Plan(fetch, [part for part in PARTS if part.member in still_true and part not in fetch])


def file_name(conversation_id: str) -> str:
    """The name of a conversation's file: safe in any folder, and no two conversations have the same.

    A name that would be too long ends in the hash of the whole id, after a sign that no other name has.
    """
    name = "".join(chr(byte) if chr(byte) in PLAIN else f"%{byte:02x}" for byte in conversation_id.encode())
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(conversation_id.encode()).hexdigest()
        name = f"{name[: LONGEST_NAME - len(digest) - 1]}~{digest}"
    return f"{name}.json"


def is_final(answer: Answer) -> bool:
    """Whether asking again would bring nothing else: what was asked for, or a refusal."""
    if answer.status is None or answer.status >= 500 or answer.status in NOT_FINAL:
        return False
    return not (_is_good(answer) and answer.failure)


def refusal(answer: Answer) -> str:
    """Why an answer has not what was asked for, with the service's own words; empty where it has."""
    if _is_good(answer) and not answer.failure:
        return ""
    if answer.status is None:
        return answer.failure or "nothing came back"
    said = answer.body.get("message") if isinstance(answer.body, dict) else None
    words = said[:300] if isinstance(said, str) else answer.failure if _is_good(answer) else ""
    return f"HTTP {answer.status}" + (f": {words}" if words else "")


def why_not_yet(facts: ConversationFacts) -> str:
    """Why a conversation's insights would not be whole now; empty where they would."""
    if not facts.live:
        return ""
    jobs = "a job that may still run" if facts.live == 1 else f"{facts.live} jobs that may still run"
    return f"it has {jobs}: its insights would not be whole; fetch them once the batch is over (`uploader status`)"


def _is_good(answer: Answer) -> bool:
    return answer.status is not None and 200 <= answer.status < 300
