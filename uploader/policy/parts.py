"""The parts of a conversation's insights."""

from typing import NamedTuple


class Part(NamedTuple):
    """A part of a conversation's insights: its name for people, in the service's path, and in the file."""

    name: str
    path: str
    member: str


PARTS = (
    Part("members", "members", "members"),
    Part("messages", "messages", "messages"),
    Part("topics", "topics", "topics"),
    Part("action-items", "action-items", "actionItems"),
    Part("follow-ups", "follow-ups", "followUps"),
    Part("questions", "questions", "questions"),
    Part("summary", "summary", "summary"),
    Part("entities", "entities", "entities"),
    Part("analytics", "analytics", "analytics"),
    Part("trackers", "trackers-detected", "trackers"),
)
"""Every part that there is, in the order in which they are asked for."""
