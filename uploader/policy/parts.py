"""The parts of a conversation's insights."""

from typing import NamedTuple


class Part(NamedTuple):
    """A part of a conversation's insights."""

    # for people
    name: str
    # in the service's path
    path: str
    # in the JSON file
    member: str


# all parts, in the order in which they are requested
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
