"""Decides of insights: the parts to fetch, the parts of a file that are still valid, the meaning of an answer."""

import difflib
import hashlib
import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from uploader.errors import UsageError
from uploader.model import Answer, ConversationFacts
from uploader.policy.parts import PARTS, Part

# bytes that are not escaped in a file name; capitals are: many file systems ignore letter case
PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_")
# characters of a file name without its extension; file systems take 255 bytes, and temporary names are longer
LONGEST_NAME = 160
# statuses after which the same request may have another answer
NOT_FINAL = frozenset([401, 408, 425, 429])


class Kept(NamedTuple):
    """The metadata in a file of insights."""

    # the completed items at the time of fetching, as the file has them
    completed: Mapping[str, Any]
    # the parts that it has
    members: Collection[str]


class Plan(NamedTuple):
    """The parts to fetch for a file, and the parts of it that are still valid."""

    fetch: Sequence[Part]
    keep: Sequence[Part]


def chosen(names: Collection[str]) -> tuple[Part, ...]:
    """Return the parts of these names, in the order in which they are requested; all parts where none is named.

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
    """Plan which parts of a file to fetch: all where something was appended since, else the missing ones.

    Args:
        wanted: The parts that the command asks for.
        kept: The file's metadata; None where there is no file.
        completed: What the ledger knows to be completed now, as the file would have it.
        again: Fetch all wanted parts in any case.
    """
    still_true = kept.members if kept is not None and kept.completed == completed else ()
    fetch = [part for part in wanted if again or part.member not in still_true]
    return Plan(fetch, [part for part in PARTS if part.member in still_true and part not in fetch])


def file_name(conversation_id: str) -> str:
    """Return the name of a conversation's file: safe on any file system, and unique to the conversation."""
    name = "".join(chr(byte) if chr(byte) in PLAIN else f"%{byte:02x}" for byte in conversation_id.encode())
    if len(name) > LONGEST_NAME:
        # no escaped name has a tilde, so that the two kinds of names never meet
        digest = hashlib.sha256(conversation_id.encode()).hexdigest()
        name = f"{name[: LONGEST_NAME - len(digest) - 1]}~{digest}"
    return f"{name}.json"


def is_final(answer: Answer) -> bool:
    """Return True where the same request would have the same answer again: a success, or a refusal."""
    if answer.status is None or answer.status >= 500 or answer.status in NOT_FINAL:
        return False
    return not (_is_good(answer) and answer.failure)


def refusal(answer: Answer) -> str:
    """Return why an answer lacks the requested part, with the service's message; empty where it has the part."""
    if _is_good(answer) and not answer.failure:
        return ""
    if answer.status is None:
        return answer.failure or "nothing came back"
    said = answer.body.get("message") if isinstance(answer.body, dict) else None
    words = said[:300] if isinstance(said, str) else answer.failure if _is_good(answer) else ""
    return f"HTTP {answer.status}" + (f": {words}" if words else "")


def why_not_yet(facts: ConversationFacts) -> str:
    """Return why a conversation's insights would be incomplete now; empty where they would be complete."""
    if not facts.live:
        return ""
    jobs = "a job that may still run" if facts.live == 1 else f"{facts.live} jobs that may still run"
    return f"it has {jobs}: its insights would not be whole; fetch them once the batch is over (`uploader status`)"


def _is_good(answer: Answer) -> bool:
    return answer.status is not None and 200 <= answer.status < 300
