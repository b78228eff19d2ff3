"""Insights: which parts, what is still true of a file, how it is called, and what an answer is good for."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import UsageError
from uploader.model import Answer, ConversationFacts
from uploader.policy.insights import Kept, chosen, file_name, is_final, plan, refusal, why_not_yet
from uploader.policy.parts import PARTS, Part

NAMES = [part.name for part in PARTS]
THEN, NOW = {"items": 1, "lastFinishedAt": "2026-11-22T01:00:00.000Z"}, {"items": 2, "lastFinishedAt": None}
PARTS_CHOSEN = st.lists(st.sampled_from(PARTS), unique=True)
GONE = {"message": "The conversation could not be found"}


def test_the_documented_parts_are_there() -> None:
    """Each documented endpoint under the conversation is a part, once."""
    assert {part.path for part in PARTS} == {
        *("members", "messages", "topics", "action-items", "follow-ups", "questions", "summary", "entities"),
        *("analytics", "trackers-detected"),
    }
    assert len({part.name for part in PARTS}) == len({part.member for part in PARTS}) == len(PARTS)


def test_the_parts_are_shown() -> None:
    """The config file names those that can be chosen, the guide the members of a file."""
    root = Path(__file__).parents[2]
    shown = " ".join((root / "config" / "uploader.toml").read_text(encoding="utf-8").replace("#", " ").split())
    assert f"{', '.join(NAMES)}. None named" in shown
    guide = (root / "uploader" / "docs" / "insights.md").read_text(encoding="utf-8")
    assert [part.member for part in PARTS if f"`{part.member}`" not in guide] == []


@given(st.lists(st.sampled_from(NAMES)))
def test_parts_are_chosen_by_name_in_their_own_order(names: list[str]) -> None:
    """Parts come in their own order, each once, however they are named; no name means all parts."""
    assert [part.name for part in chosen(names)] == [name for name in NAMES if name in names or not names]


@pytest.mark.parametrize(("name", "told"), [("topicz", "did you mean topics?"), ("", "there are members, messages")])
def test_an_unknown_part_is_told_with_those_that_there_are(name: str, told: str) -> None:
    """A mistyped part is an error."""
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        chosen(["messages", name])


@given(PARTS_CHOSEN, st.none() | PARTS_CHOSEN, st.booleans(), st.booleans())
def test_a_file_is_planned_whole_and_nothing_outdated_stays(
    wanted: list[Part], had: list[Part] | None, grown: bool, again: bool
) -> None:
    """Wanted parts are fetched or still valid, kept parts are valid, and nothing is fetched without need."""
    kept = None if had is None else Kept(THEN, {part.member for part in had})
    still_true = set() if had is None or grown else {part.name for part in had}
    found = plan(wanted, kept, NOW if grown else THEN, again=again)
    fetch, keep = {part.name for part in found.fetch}, {part.name for part in found.keep}
    assert fetch | keep == {part.name for part in wanted} | still_true
    assert keep <= still_true
    assert not fetch & keep
    assert again or not fetch & still_true


@given(st.text())
def test_a_file_name_is_safe_in_any_folder(conversation_id: str) -> None:
    """A file name is one path component, not hidden, of plain characters, and not longer than file systems take."""
    name = file_name(conversation_id)
    assert PurePosixPath(name).parts == (name,)
    assert name.isascii()
    assert name == name.lower()
    assert not name.startswith(".") or conversation_id == ""
    assert len(name) + len("..12345678.uploader-insights") < 255


@given(
    st.lists(st.text() | st.text("aA%2f/~._-Éé", max_size=4) | st.text("aA", min_size=150, max_size=200), unique=True)
)
def test_no_two_conversations_share_a_file(conversation_ids: list[str]) -> None:
    """File names differ also where the file system ignores letter case, and where names are too long."""
    assert len({file_name(conversation).casefold() for conversation in conversation_ids}) == len(conversation_ids)


@pytest.mark.parametrize(
    ("conversation_id", "name"),
    [
        ("5815170693595136", "5815170693595136.json"),
        ("a/../B", "a%2f%2e%2e%2f%42.json"),
        ("é", "%c3%a9.json"),
        (".json", "%2ejson.json"),
        ("x" * 160, "x" * 160 + ".json"),
    ],
)
def test_a_plain_id_is_its_own_name(conversation_id: str, name: str) -> None:
    """People find the file of a conversation by its id."""
    assert file_name(conversation_id) == name


@pytest.mark.parametrize(
    ("answer", "final", "why"),
    [
        (Answer(200, {"messages": []}), True, ""),
        (Answer(200, []), True, ""),
        (Answer(200, None), True, ""),
        (Answer(404, GONE), True, "HTTP 404: The conversation could not be found"),
        (Answer(404, None, failure="the answer is no JSON"), True, "HTTP 404"),
        (Answer(403, {"message": "x" * 999}), True, "HTTP 403: " + "x" * 300),
        (Answer(400, {"message": ["?"]}), True, "HTTP 400"),
        (Answer(302), True, "HTTP 302"),
        (Answer(200, None, failure="the answer broke off"), False, "HTTP 200: the answer broke off"),
        (Answer(401), False, "HTTP 401"),
        (Answer(408), False, "HTTP 408"),
        (Answer(429, {"message": "too quickly"}), False, "HTTP 429: too quickly"),
        (Answer(500), False, "HTTP 500"),
        (Answer(503, GONE), False, "HTTP 503: The conversation could not be found"),
        (Answer(failure="Connection refused"), False, "Connection refused"),
        (Answer(), False, "nothing came back"),
    ],
)
def test_what_an_answer_is_good_for(answer: Answer, final: bool, why: str) -> None:
    """An answer or a refusal ends the asking; trouble, throttling and what cannot be read do not."""
    assert (is_final(answer), refusal(answer)) == (final, why)


@given(st.integers(min_value=100, max_value=599) | st.none(), st.text(), st.just({}) | st.just(GONE))
def test_an_answer_without_a_refusal_is_final(status: int | None, failure: str, body: Any) -> None:
    """A final answer is never asked for again."""
    answer = Answer(status, body, failure=failure)
    assert refusal(answer) or is_final(answer)


@pytest.mark.parametrize(("live", "word"), [(1, "a job that may still run"), (3, "3 jobs that may still run")])
def test_live_jobs_are_told(live: int, word: str) -> None:
    """A conversation with live jobs is refused in clear words; one without is not."""
    assert word in why_not_yet(ConversationFacts(1, 1.0, live))
    assert why_not_yet(ConversationFacts(1, 1.0, 0)) == ""
