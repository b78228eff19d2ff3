"""Answers for the parts of a conversation, made of its appended files; without recognition, and saying so."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from uploader.sandbox.jobs import Job, Jobs
from uploader.sandbox.journal import Journal

NOTE: Final = "The sandbox does not transcribe: it lists the appended files, and invents no speech."
ITSELF: Final = ""
SUMMARY: Final = "summary"

Parts = Mapping[str, Callable[[str, Sequence[Job]], Any]]


def answer(conversation: str, part: str, jobs: Jobs, journal: Journal) -> tuple[int, Any]:
    """Return status and body for a part of a conversation, by the jobs that have completed so far."""
    if part == SUMMARY and jobs.is_busy(conversation):
        return 404, {"message": f"The conversation {conversation} is in progress: its summary comes after its end."}
    if part == SUMMARY and not _wants_summary(conversation, journal):
        return 404, {"message": "There is no summary: nothing was appended with enableSummary=true."}
    return 200, PARTS[part](conversation, jobs.completed(conversation))


def _itself(conversation: str, done: Sequence[Job]) -> Any:
    return {
        "id": conversation,
        "type": "meeting",
        "name": conversation,
        "endTime": _time(done[-1].ended_at) if done else None,
        "members": _members(conversation, done)["members"],
        "note": NOTE,
    }


def _members(_: str, done: Sequence[Job]) -> dict[str, Any]:
    """Make members for each append, as with diarization."""
    named = [{"id": job.job_id, "name": f"Whoever is in append {n}"} for n, job in enumerate(done, start=1)]
    return {"members": named, "note": NOTE}


def _messages(conversation: str, done: Sequence[Job]) -> Any:
    messages = [
        {
            "id": job.job_id,
            "text": f"({job.size} bytes of audio; the sandbox does not transcribe)",
            "from": {"id": job.job_id},
            "endTime": _time(job.ended_at),
            "conversationId": conversation,
        }
        for job in done
    ]
    return {"messages": messages}


def _summary(_: str, done: Sequence[Job]) -> Any:
    size = sum(job.size for job in done)
    text = f"({len(done)} appends, {size} bytes of audio; the sandbox does not summarise)"
    return {"summary": [{"id": "sandbox", "text": text, "messageRefs": [{"id": job.job_id} for job in done]}]}


def _empty(name: str) -> Callable[[str, Sequence[Job]], Any]:
    return lambda _conversation, _done: {name: [], "note": NOTE}


def _analytics(_: str, __: Sequence[Job]) -> Any:
    return {"metrics": [], "members": [], "note": NOTE}


def _trackers(_: str, __: Sequence[Job]) -> Any:
    """Make the trackers, a bare array as from the service, which has no place for a note."""
    return []


# the parts of a conversation by the path below it
PARTS: Final[Parts] = {
    ITSELF: _itself,
    "members": _members,
    "messages": _messages,
    "topics": _empty("topics"),
    "action-items": _empty("actionItems"),
    "follow-ups": _empty("followUps"),
    "questions": _empty("questions"),
    SUMMARY: _summary,
    "entities": _empty("entities"),
    "analytics": _analytics,
    "trackers-detected": _trackers,
}


def _wants_summary(conversation: str, journal: Journal) -> bool:
    appended = (put for put in journal.appended() if put.conversation_id == conversation)
    return any(("enableSummary", "true") in put.query for put in appended)


def _time(when: datetime | None) -> str | None:
    return when.isoformat() if when else None
