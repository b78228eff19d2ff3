"""What a reply means for its item: the table that keeps "at most once"."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import Next, Outcome, Reply, State
from uploader.policy.replies import DOCUMENTED, describe, job_id, judge, refuse_after_cut_offs

CONVERSATION = "5815170693595136"
ANSWER = {"conversationId": CONVERSATION, "jobId": "9b1deb4d"}
WITHOUT_JOB: list[Mapping[str, Any] | None] = [
    None,
    {},
    {"conversationId": CONVERSATION},
    {"jobId": ""},
    {"jobId": " \u00a0"},
    {"jobId": ".."},
    {"jobId": None},
    {"jobId": True},
    {"jobId": ["9b1deb4d"]},
]

OTHER_4XX = [status for status in range(400, 500) if status not in (401, 408, 425, 429)]


def answered(status: int, answer: Mapping[str, Any] | None = None, *, early: bool = False, failure: str = "") -> Reply:
    """Return an answer with this status; ``early``: it came while the body was still going out."""
    return Reply(connected=True, last_chunk_left=not early, status=status, answer=answer, failure=failure)


def meaning(reply: Reply, proves: tuple[int, ...] = ()) -> tuple[Outcome, State, Next]:
    """Return outcome, state and next step of a reply."""
    verdict = judge(reply, CONVERSATION, proves)
    return verdict.outcome, verdict.state, verdict.next


APPLIED = (Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW)
REFUSED = (Outcome.REFUSED, State.REFUSED, Next.SETTLE)
IN_DOUBT = (Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE)
CUT_OFF = (Outcome.CUT_OFF, State.PENDING, Next.AGAIN)
NOT_SENT = (Outcome.NOT_SENT, State.PENDING, Next.AGAIN)
NEW_TOKEN = (Outcome.NOT_SENT, State.PENDING, Next.RENEW_TOKEN)
THROTTLED = (Outcome.THROTTLED, State.PENDING, Next.COOL_DOWN)


@pytest.mark.parametrize(
    ("statuses", "early", "answer", "expected"),
    [
        pytest.param(range(200, 300), False, ANSWER, APPLIED, id="2xx with a jobId"),
        pytest.param(range(200, 300), False, None, IN_DOUBT, id="2xx without a jobId"),
        pytest.param(range(200, 300), True, ANSWER, IN_DOUBT, id="2xx with a jobId, early"),
        pytest.param(range(200, 300), True, None, CUT_OFF, id="2xx without a jobId, early"),
        pytest.param(range(300, 400), False, ANSWER, REFUSED, id="3xx"),
        pytest.param(range(300, 400), True, None, REFUSED, id="3xx, early"),
        pytest.param(OTHER_4XX, False, ANSWER, REFUSED, id="4xx, 413 and 423 among them"),
        pytest.param(OTHER_4XX, True, None, REFUSED, id="4xx, early"),
        pytest.param([408, 425], False, ANSWER, NOT_SENT, id="408, 425: nothing was taken"),
        pytest.param([408, 425], True, None, NOT_SENT, id="408, 425, early"),
        pytest.param([401], False, None, NEW_TOKEN, id="401"),
        pytest.param([401], True, None, NEW_TOKEN, id="401, early"),
        pytest.param([429], False, None, THROTTLED, id="429"),
        pytest.param([429], True, None, THROTTLED, id="429, early"),
        pytest.param(range(500, 600), False, None, IN_DOUBT, id="5xx"),
        pytest.param(range(500, 600), False, ANSWER, IN_DOUBT, id="5xx that names a job"),
        pytest.param(range(500, 600), True, None, CUT_OFF, id="5xx, early"),
        pytest.param(range(100, 200), False, None, IN_DOUBT, id="1xx as the last word"),
    ],
)
def test_the_table_of_statuses(
    statuses: Iterable[int], early: bool, answer: Mapping[str, Any] | None, expected: tuple[Outcome, State, Next]
) -> None:
    """Every status code, after the last chunk and early, has the one meaning that promise 1 gives it."""
    for status in statuses:
        assert meaning(answered(status, answer, early=early)) == expected, status


@pytest.mark.parametrize("early", [False, True])
def test_a_job_id_that_came_is_kept(early: bool) -> None:
    """The jobId of a 2xx is stored, whether the answer is trusted or not."""
    assert judge(answered(201, ANSWER, early=early), CONVERSATION).job_id == "9b1deb4d"


@pytest.mark.parametrize("answer", WITHOUT_JOB)
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_success_without_a_job_id_is_in_doubt(status: int, answer: Mapping[str, Any] | None) -> None:
    """A 2xx whose answer names no job, or cannot be read, leaves it open whether the file was appended."""
    assert meaning(answered(status, answer)) == IN_DOUBT


@pytest.mark.parametrize("answer", WITHOUT_JOB)
def test_an_early_success_without_a_job_id_is_cut_off(answer: Mapping[str, Any] | None) -> None:
    """A 2xx without a job while the body still goes out: the service cannot have the file, so it goes again."""
    assert meaning(answered(200, answer, early=True)) == CUT_OFF


@pytest.mark.parametrize("named", ["other", "", 17, ["x"]])
def test_an_answer_for_another_conversation_is_in_doubt(named: Any) -> None:
    """An answer that names another conversation is not trusted; its jobId is kept for who looks into it."""
    reply = answered(201, {"conversationId": named, "jobId": "9b1deb4d"})
    assert meaning(reply) == IN_DOUBT
    assert judge(reply, CONVERSATION).job_id == "9b1deb4d"


@pytest.mark.parametrize("named", [CONVERSATION, int(CONVERSATION), None])
def test_an_answer_for_this_conversation_or_none_is_trusted(named: Any) -> None:
    """The conversationId may come as text or number, or not at all."""
    assert meaning(answered(201, {"conversationId": named, "jobId": "9b1deb4d"})) == APPLIED


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_only_the_statuses_that_the_operator_vouches_for_prove_anything(status: int) -> None:
    """With [replies] proves_not_appended = [500, 503] these two are tried again, the others stay in doubt."""
    expected = NOT_SENT if status in (500, 503) else IN_DOUBT
    assert meaning(answered(status), proves=(500, 503)) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(Reply(failure="Connection refused"), NOT_SENT, id="before connect"),
        pytest.param(Reply(), NOT_SENT, id="nothing is known but that nothing connected"),
        pytest.param(Reply(failure="stopped", withheld=True), NOT_SENT, id="stopped before connect"),
        pytest.param(Reply(connected=True, bytes_sent=9, failure="reset"), CUT_OFF, id="while the body goes out"),
        pytest.param(Reply(connected=True, withheld=True), CUT_OFF, id="cut by ourselves before the last chunk"),
        pytest.param(Reply(connected=True, last_chunk_left=True), IN_DOUBT, id="no answer after the last chunk"),
        pytest.param(
            Reply(connected=True, last_chunk_left=True, withheld=True), IN_DOUBT, id="given up after the last chunk"
        ),
        pytest.param(answered(201, failure="the answer broke off"), IN_DOUBT, id="success broken off"),
        pytest.param(answered(201, failure="the answer is no JSON"), IN_DOUBT, id="success unreadable"),
        pytest.param(answered(404, failure="the answer broke off"), REFUSED, id="refusal broken off"),
        pytest.param(answered(500, failure="the answer broke off"), IN_DOUBT, id="server error broken off"),
        pytest.param(Reply(source_failure="shrank"), REFUSED, id="our file cannot be opened"),
        pytest.param(Reply(connected=True, bytes_sent=9, source_failure="grew"), REFUSED, id="our file changed"),
    ],
)
def test_every_way_a_connection_can_end(reply: Reply, expected: tuple[Outcome, State, Next]) -> None:
    """Not connected and cut off are tried again; whatever ends after the last chunk is in doubt."""
    assert meaning(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(connected=False, last_chunk_left=True), id="not connected"),
        pytest.param(Reply(connected=True, last_chunk_left=True, source_failure="changed"), id="source failure"),
    ],
)
def test_a_last_chunk_that_left_outranks_all_else_that_is_said(reply: Reply) -> None:
    """Once the last chunk has left, nothing but the service's answer proves that nothing was appended."""
    assert meaning(reply) == IN_DOUBT


TEXT = st.text(max_size=8)
JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.lists(TEXT, max_size=2)
ANSWERS = st.none() | st.fixed_dictionaries(
    {}, optional={"jobId": JSON_VALUES, "conversationId": JSON_VALUES | st.just(CONVERSATION), "message": JSON_VALUES}
)
WHATEVER = {
    "status": st.none() | st.integers(100, 599),
    "answer": ANSWERS,
    "retry_after": st.none() | TEXT,
    "failure": TEXT,
    "withheld": st.booleans(),
    "bytes_sent": st.integers(0, 2**40),
}
REPLIES = st.builds(
    Reply, connected=st.booleans(), last_chunk_left=st.booleans(), source_failure=st.just("") | TEXT, **WHATEVER
)
SENT = st.builds(Reply, connected=st.just(True), last_chunk_left=st.just(True), **WHATEVER)
"""Replies to attempts whose last chunk left."""


def is_trustworthy(reply: Reply) -> bool:
    """Return True where the answer comes from the service itself (design.md, promise 1)."""
    if reply.status is None or not 200 <= reply.status < 500:
        return False
    if reply.status >= 300:
        return True
    answer = reply.answer or {}
    named = answer.get("conversationId")
    return job_id(reply) is not None and (named is None or str(named) == CONVERSATION)


@given(SENT)
def test_what_may_have_been_appended_is_never_tried_again(reply: Reply) -> None:
    """After the last chunk, without a trustworthy answer, an item is in doubt and nothing else."""
    if not is_trustworthy(reply):
        assert meaning(reply) == IN_DOUBT


@given(SENT, st.sets(st.sampled_from([500, 503])))
def test_after_the_last_chunk_only_a_proof_makes_it_pending(reply: Reply, proves: set[int]) -> None:
    """Pending again after the last chunk: 401, 408, 425, 429, or a status that the operator vouches for."""
    if judge(reply, CONVERSATION, proves).state is State.PENDING:
        assert reply.status in {401, 408, 425, 429, *proves}


@given(REPLIES)
def test_a_reply_never_ends_an_item(reply: Reply) -> None:
    """Only a job or a person ends an item, never a reply."""
    verdict = judge(reply, CONVERSATION)
    assert verdict.state in (State.PENDING, State.ACCEPTED, State.REFUSED, State.IN_DOUBT)
    assert (verdict.state is State.ACCEPTED) == (verdict.outcome is Outcome.APPLIED) == (verdict.next is Next.FOLLOW)


@given(REPLIES)
def test_accepted_means_a_job_of_the_whole_file(reply: Reply) -> None:
    """Accepted needs a 2xx, a jobId and a last chunk that left."""
    verdict = judge(reply, CONVERSATION)
    if verdict.state is State.ACCEPTED:
        assert reply.last_chunk_left
        assert is_trustworthy(reply)
        assert verdict.job_id == job_id(reply) is not None


@given(REPLIES)
def test_every_verdict_says_why(reply: Reply) -> None:
    """The reason is stored and shown, so there always is one."""
    assert judge(reply, CONVERSATION).reason


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "a"), (17, "17"), (0, "0"), ("", None), (None, None), (True, None), (1.5, "1.5")]
)
def test_a_job_id_is_text_or_a_number(value: Any, expected: str | None) -> None:
    """Ids are strings; a number is taken as it is written, anything else is none."""
    assert job_id(Reply(answer={"jobId": value})) == expected


DOCUMENTATION = {
    400: "Bad Request! Please refer docs for correct input fields.",
    401: "Unauthorized. Please generate a new access token.",
    404: "The conversation and/or it's metadata you asked could not be found, please check the input provided",
    429: "Maximum number of concurrent jobs reached. Please wait for some requests to complete.",
    500: "Something went wrong! Please contact support@symbl.ai",
}


def test_the_codes_are_told_in_the_words_of_the_documentation() -> None:
    """The table is put-audio.md's, word for word, and each of its texts reaches the reason."""
    assert DOCUMENTED == DOCUMENTATION
    for status, words in DOCUMENTATION.items():
        assert words in judge(answered(status), CONVERSATION).reason


def test_the_services_own_message_is_told_too() -> None:
    """A reason carries the code, the documentation's words and the service's own message, each once."""
    told = describe(answered(404, {"message": "Conversation with 1 not found"}))
    assert told == f"HTTP 404: {DOCUMENTATION[404]}: Conversation with 1 not found"
    assert describe(answered(404, {"message": DOCUMENTATION[404]})) == f"HTTP 404: {DOCUMENTATION[404]}"


def test_a_long_message_is_cut() -> None:
    """A stranger's message of any length leaves a line that a log bears."""
    assert len(describe(answered(418, {"message": "x" * 10_000}))) < 400


@pytest.mark.parametrize("words", [{"message": 17}, {"message": None}, {"message": ["x"]}, {}])
def test_a_message_that_is_no_text_is_left_out(words: Mapping[str, Any]) -> None:
    """Whatever stands in place of a message breaks nothing."""
    assert describe(answered(499, words)) == "HTTP 499"


def test_an_item_that_is_cut_off_for_ever_is_refused() -> None:
    """The cut-off that reaches max_attempts refuses the item; the ones before it do not."""
    reply = Reply(connected=True, failure="reset")
    verdict = judge(reply, CONVERSATION)
    assert refuse_after_cut_offs(verdict, reply, cut_offs=8, most=10) is verdict
    refused = refuse_after_cut_offs(verdict, reply, cut_offs=9, most=10)
    assert (refused.outcome, refused.state, refused.next) == REFUSED
    assert "10 times" in refused.reason
    assert "reset" in refused.reason


@pytest.mark.parametrize("status", [408, 425])
def test_a_file_that_is_never_taken_is_refused_in_the_end(status: int) -> None:
    """Nothing was taken, so it goes again, but no more often than max_attempts allows."""
    reply = answered(status)
    verdict = judge(reply, CONVERSATION)
    assert refuse_after_cut_offs(verdict, reply, cut_offs=8, most=10) is verdict
    refused = refuse_after_cut_offs(verdict, reply, cut_offs=9, most=10)
    assert (refused.outcome, str(status) in refused.reason) == (Outcome.REFUSED, True)


UUID = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"


@pytest.mark.parametrize(
    ("sent", "named", "same"),
    [
        (UUID, UUID.upper(), True),
        (UUID.upper(), UUID, True),
        (UUID, f"urn:uuid:{UUID}", True),
        (UUID, f"{{{UUID.upper()}}}", True),
        (UUID, UUID.replace("-", ""), True),
        (UUID, UUID[:-1], False),
        ("17", 17, True),
        ("17", 17.0, True),
        ("Conversation-A", "conversation-a", False),
        (UUID, UUID.replace("9", "8"), False),
        ("17", 17.5, False),
    ],
)
def test_the_same_conversation_in_another_letter_case(sent: str, named: Any, same: bool) -> None:
    """A UUID means the same in each of its forms; any other id is another one."""
    verdict = judge(answered(201, {"conversationId": named, "jobId": "9b1deb4d"}), sent)
    assert (verdict.outcome is Outcome.APPLIED) is same


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=413, words="a page, 'Too big'"), f"HTTP 413: {HTTPStatus(413).phrase}: a page, 'Too big'"),
        (Reply(status=307, location="https://x/y"), "HTTP 307: Temporary Redirect: it leads to https://x/y, which is"),
        (Reply(unreadable="HTTP 201, 90 bytes", words="it begins with 'x'"), "HTTP 201, 90 bytes: it begins with 'x'"),
    ],
)
def test_a_refusal_that_is_no_json_is_told_by_status_page_and_address(reply: Reply, words: str) -> None:
    """The status's meaning, a page's title, where a redirect leads; of what is no HTTP its status and first words."""
    assert words in describe(reply)


def test_an_answer_that_is_no_http_is_never_called_none() -> None:
    """It came, so "no answer" would be wrong; what it was is said, and the item is in doubt."""
    reply = Reply(connected=True, last_chunk_left=True, unreadable="12 bytes", words="it begins with 'SSH-2.0'")
    verdict = judge(reply, CONVERSATION)
    assert verdict.outcome is Outcome.IN_DOUBT
    assert "no answer" not in verdict.reason
    assert "SSH-2.0" in verdict.reason


def test_a_job_id_in_an_answer_that_broke_off_is_kept() -> None:
    """A wrong length makes it untrustworthy, and its jobId is what a person needs to look the job up."""
    verdict = judge(answered(201, ANSWER, failure="the answer broke off"), CONVERSATION)
    assert (verdict.outcome, verdict.job_id) == (Outcome.IN_DOUBT, "9b1deb4d")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(connected=True, withheld=True),
        Reply(failure="Connection refused"),
        Reply(connected=True, last_chunk_left=True),
        answered(429),
        answered(401),
    ],
)
def test_only_cut_offs_by_others_count_against_an_item(reply: Reply) -> None:
    """Our own cuts, waits for the service, 401 and 429 never refuse an item, however often they come."""
    verdict = judge(reply, CONVERSATION)
    assert refuse_after_cut_offs(verdict, reply, cut_offs=1000, most=1) is verdict


def test_a_recording_that_is_away_is_tried_for_longer() -> None:
    """Nothing was appended, and an outage of a store is no fault of its recordings: patience is six times as long."""
    reply = Reply(source_failure="the file could not be opened: HTTP 503", source_is_away=True)
    verdict = judge(reply, "c")
    assert (verdict.outcome, verdict.state, verdict.next) == (Outcome.CUT_OFF, State.PENDING, Next.AGAIN)
    assert refuse_after_cut_offs(verdict, reply, cut_offs=58, most=10) is verdict
    refused = refuse_after_cut_offs(verdict, reply, cut_offs=59, most=10)
    assert (refused.state, refused.next) == (State.REFUSED, Next.SETTLE)
    assert refused.reason.endswith("the last time: the file could not be opened: HTTP 503")


def test_a_recording_that_another_host_may_have_is_never_refused() -> None:
    """Nothing was appended, and however often a worker lacks it, the item stays pending for the others."""
    reply = Reply(source_failure="the file could not be opened: No such file or directory", source_is_elsewhere=True)
    verdict = judge(reply, "c")
    assert (verdict.outcome, verdict.state, verdict.next) == (Outcome.NOT_SENT, State.PENDING, Next.AGAIN)
    assert verdict.reason == "not on this host: the file could not be opened: No such file or directory"
    assert refuse_after_cut_offs(verdict, reply, cut_offs=10**6, most=1) is verdict
