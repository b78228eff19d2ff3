"""What a call to the webhook means: tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import JobStatus, Next, Outcome, State, Verdict
from uploader.policy.hearing import (
    SILENT_JOBS,
    Call,
    Earlier,
    Known,
    Meaning,
    address_of,
    after_hearing,
    is_webhook_silent,
    meaning,
    read_call,
    remark_on_verdict,
    token_hash,
)

CLOSED = Known(
    is_open=False, job_id=None, heard=None, waits=False, state=State.PENDING, items_job_id=None, is_anothers=False
)
"""An attempt that was given up, of an item that is to be tried again."""
OPEN = CLOSED._replace(is_open=True, state=State.SENDING)
WAITING = OPEN._replace(job_id="j", heard=JobStatus.IN_PROGRESS, waits=True, state=State.SENT)
ACCEPTED = CLOSED._replace(job_id="j", state=State.ACCEPTED, items_job_id="j")
RETRIED = CLOSED._replace(state=State.SENT)
GOING, DONE, FAILED = (Call("j", JobStatus(status)) for status in ("in_progress", "completed", "failed"))

TABLE = [
    # the attempt is under way: its answer may be lost yet
    (OPEN, GOING, Meaning.NOTED),
    (OPEN._replace(state=State.SENT), DONE, Meaning.NOTED),
    (WAITING, DONE, Meaning.NOTED),
    (WAITING, GOING, Meaning.NOTHING),
    (WAITING, Call("j", JobStatus.SCHEDULED), Meaning.NOTHING),
    (WAITING._replace(heard=JobStatus.COMPLETED), FAILED, Meaning.NOTHING),
    (WAITING, Call("other", JobStatus.COMPLETED), Meaning.DISTRUSTED),
    # it was given up, or is in doubt: the first word settles it, and stops its retry
    (CLOSED, GOING, Meaning.ACCEPTED),
    (CLOSED._replace(state=State.IN_DOUBT), DONE, Meaning.ACCEPTED),
    (CLOSED._replace(state=State.IN_DOUBT, items_job_id="an answer that was not trusted"), GOING, Meaning.ACCEPTED),
    (CLOSED._replace(state=State.REFUSED), GOING, Meaning.ACCEPTED),
    (CLOSED._replace(state=State.SENDING), GOING, Meaning.NOTED),
    # too late for that
    (RETRIED, GOING, Meaning.NOTED),
    (CLOSED._replace(state=State.ACCEPTED, items_job_id="k"), GOING, Meaning.SURPLUS),
    (CLOSED._replace(state=State.COMPLETED, items_job_id="k"), DONE, Meaning.SURPLUS),
    (CLOSED._replace(state=State.FAILED, items_job_id="k"), GOING, Meaning.SURPLUS),
    (CLOSED._replace(state=State.DROPPED), GOING, Meaning.SURPLUS),
    # what was said of it already changes nothing
    (CLOSED._replace(job_id="j", state=State.COMPLETED, items_job_id="k"), DONE, Meaning.NOTHING),
    (CLOSED._replace(job_id="j", state=State.DROPPED), DONE, Meaning.NOTHING),
    # the job that is known
    (ACCEPTED, GOING, Meaning.NOTHING),
    (ACCEPTED, DONE, Meaning.ENDED),
    (ACCEPTED, FAILED, Meaning.ENDED),
    (ACCEPTED._replace(state=State.COMPLETED), FAILED, Meaning.NOTHING),
    (ACCEPTED._replace(state=State.FAILED), DONE, Meaning.NOTHING),
    (ACCEPTED, Call("other", JobStatus.FAILED), Meaning.DISTRUSTED),
    (ACCEPTED._replace(is_anothers=True), DONE, Meaning.DISTRUSTED),
    # a person named it, or said that there is one, or had the failed one sent again
    (CLOSED._replace(state=State.ACCEPTED, items_job_id="j"), DONE, Meaning.ENDED),
    (CLOSED._replace(state=State.COMPLETED), DONE, Meaning.NOTED),
    (CLOSED._replace(job_id="j"), FAILED, Meaning.NOTHING),
    (RETRIED._replace(job_id="j"), FAILED, Meaning.NOTHING),
]


@pytest.mark.parametrize(("known", "call", "expected"), TABLE)
def test_the_table_of_calls(known: Known, call: Call, expected: Meaning) -> None:
    """The first call for an attempt says which job it became; from then on only the end of that job counts."""
    assert meaning(known, call) is expected


@given(
    st.builds(
        Known,
        is_open=st.booleans(),
        job_id=st.none(),
        heard=st.none(),
        waits=st.just(value=False),
        state=st.sampled_from(State),
        items_job_id=st.sampled_from([None, "j", "k"]),
        is_anothers=st.just(value=True),
    ),
    st.sampled_from(JobStatus),
)
def test_the_job_of_another_item_is_never_taken(known: Known, status: JobStatus) -> None:
    """A jobId belongs to one item, whatever a call says."""
    assert meaning(known, Call("j", status)) is Meaning.DISTRUSTED


IN_DOUBT = Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, "no answer")
CUT_OFF = Verdict(Outcome.CUT_OFF, State.PENDING, Next.AGAIN, "reset")
THROTTLED = Verdict(Outcome.THROTTLED, State.PENDING, Next.COOL_DOWN, "HTTP 429")
APPLIED = Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, "HTTP 201", "k")
EARLIER = Earlier("first", 1, Outcome.CUT_OFF)


@pytest.mark.parametrize("verdict", [IN_DOUBT, IN_DOUBT._replace(job_id="untrusted"), CUT_OFF, THROTTLED])
def test_a_call_settles_what_the_reply_left_open(verdict: Verdict) -> None:
    """What was heard of an attempt makes it accepted with its jobId, whatever the reply lacked."""
    meant = after_hearing(verdict, GOING, None)
    assert (meant.outcome, meant.state, meant.next, meant.job_id) == (
        Outcome.APPLIED,
        State.ACCEPTED,
        Next.FOLLOW,
        "j",
    )
    assert after_hearing(verdict, None, EARLIER).job_id == "first"
    assert after_hearing(verdict, None, None) is verdict


def test_an_answer_outranks_a_call() -> None:
    """The jobId of a trusted answer stands; what a call said beside it is told."""
    assert after_hearing(APPLIED, GOING, None) is APPLIED
    assert after_hearing(APPLIED, None, EARLIER) is APPLIED


REMARKS = [
    (APPLIED, Call("k", JobStatus.SCHEDULED), None, None),
    (APPLIED, GOING, None, "attempt 2 is job k by its answer and job j by the webhook"),
    (IN_DOUBT, GOING, None, None),
    (CUT_OFF, GOING, None, "attempt 2 was taken for cut off, and the service made job j of it"),
    (CUT_OFF, None, EARLIER, "attempt 1 was taken for cut off, and the service made job first of it"),
    (APPLIED, None, EARLIER, "appended once too often: as job first (attempt 1) beside job k"),
    (IN_DOUBT, GOING, EARLIER, "appended once too often: as job first (attempt 1) beside job j"),
    (IN_DOUBT, None, EARLIER, "appended as job first; attempt 2 may have appended it once too often"),
    (CUT_OFF, None, None, None),
]


@pytest.mark.parametrize(("verdict", "own", "earlier", "said"), REMARKS)
def test_what_is_out_of_order_is_said(
    verdict: Verdict, own: Call | None, earlier: Earlier | None, said: str | None
) -> None:
    """An append too many, and a job of what was thought cut off, are told with their jobIds."""
    assert remark_on_verdict(verdict, 2, own, earlier) == said


BEFORE = (Earlier("second", 2, Outcome.CUT_OFF), Earlier("zeroth", 0, Outcome.CUT_OFF))


@pytest.mark.parametrize(
    ("verdict", "own", "by", "first"),
    [
        (APPLIED, None, "k", "appended once too often: as job first (attempt 1) beside job k"),
        (CUT_OFF, None, "first", "attempt 1 was taken for cut off, and the service made job first of it"),
        (IN_DOUBT, GOING, "j", "appended once too often: as job first (attempt 1) beside job j"),
    ],
)
def test_every_append_too_many_is_said(verdict: Verdict, own: Call | None, by: str, first: str) -> None:
    """Several earlier attempts may have become jobs: each of them stands in the open."""
    more = [f"appended once too often: as job {one.job_id} (attempt {one.number}) beside job {by}" for one in BEFORE]
    assert remark_on_verdict(verdict, 3, own, EARLIER, BEFORE) == "; ".join([first, *more])


@pytest.mark.parametrize(
    ("ended", "calls", "silent"),
    [(0, 0, False), (SILENT_JOBS - 1, 0, False), (SILENT_JOBS, 0, True), (1000, 0, True), (1000, 1, False)],
)
def test_when_the_webhook_is_silent(ended: int, calls: int, silent: bool) -> None:
    """So many jobs that were to call have ended, and none has: a single call shows that the way is open."""
    assert is_webhook_silent(ended, calls) is silent


BODIES = [
    ({"jobId": "j", "status": "in_progress"}, ("j", JobStatus.IN_PROGRESS)),
    ({"id": "j", "status": "completed"}, ("j", JobStatus.COMPLETED)),
    ({"jobId": None, "id": "j", "status": "failed"}, ("j", JobStatus.FAILED)),
    ({"jobId": 7, "status": "scheduled"}, ("7", JobStatus.SCHEDULED)),
    ({"jobId": "j", "id": "other", "status": "scheduled", "more": 1}, ("j", JobStatus.SCHEDULED)),
    ({"jobId": "j", "status": "paused"}, ("j", None)),
    ({"jobId": "j"}, None),
    ({"jobId": "j", "status": 3}, None),
    ({"status": "completed"}, None),
    ({"jobId": "", "status": "completed"}, None),
    ({"jobId": True, "status": "completed"}, None),
    ({"jobId": ["j"], "status": "completed"}, None),
    ({"jobId": "j\x1b", "status": " COMPLETED\n"}, ("j\x1b", JobStatus.COMPLETED)),
    ({"jobId": "j" * 1001, "status": "completed"}, None),
    ([], None),
    ("completed", None),
    (None, None),
]


@pytest.mark.parametrize(("body", "read"), BODIES)
def test_both_names_of_the_job_are_read_and_nothing_else(
    body: object, read: tuple[str, JobStatus | None] | None
) -> None:
    """`jobId`, or `id` in its place, and one of the four statuses; another status says nothing, and is no error."""
    assert read_call(body) == read


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://hook.example", "https://hook.example/TOKEN"),
        ("https://hook.example/", "https://hook.example/TOKEN"),
        ("https://hook.example:8443/calls/", "https://hook.example:8443/calls/TOKEN"),
        ("http://127.0.0.1:8080/a?of=night&x=1", "http://127.0.0.1:8080/a/TOKEN?of=night&x=1"),
    ],
)
def test_the_token_is_the_last_segment_of_the_path(url: str, address: str) -> None:
    """Whatever the listener's public address is, the token stands where the listener looks for it."""
    assert address_of(url, "TOKEN") == address


@given(st.text(), st.text())
def test_a_token_is_not_told_by_its_hash(one: str, other: str) -> None:
    """The ledger keeps what a token can be known by again, and not the token."""
    assert (token_hash(one) == token_hash(other)) == (one == other)
    assert len(one) < 8 or one not in token_hash(one)
