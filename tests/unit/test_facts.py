"""What follows from the facts of an item's attempts: tables."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import UNDER_WAY, JobStatus, Next, Outcome, State, Verdict
from uploader.policy.facts import AttemptFacts, Callback, CallbackEffect, ItemFacts, resolve_item

GOING, DONE, FAILED = (Callback("j", JobStatus(status)) for status in ("in_progress", "completed", "failed"))
CLOSED = AttemptFacts(1, 1, Outcome.CUT_OFF, GOING)
"""An attempt that was given up."""
OPEN = CLOSED._replace(outcome=None)
WAITING = OPEN._replace(job_id="j", pending_status=JobStatus.IN_PROGRESS)
KNOWN = CLOSED._replace(outcome=Outcome.APPLIED, job_id="j")


def told(state: State, attempt: AttemptFacts, callback: Callback, job_id: str | None = None) -> ItemFacts:
    """Make the facts of an item in this state when a callback for an attempt of it arrives."""
    return ItemFacts(state, job_id, 1, [attempt._replace(callback=callback)])


CALLBACKS = [
    # the attempt is under way: its answer may be lost yet
    (told(State.SENDING, OPEN, GOING), CallbackEffect.DEFERRED, State.SENDING),
    (told(State.SENT, OPEN, DONE), CallbackEffect.DEFERRED, State.SENT),
    (told(State.SENT, WAITING, DONE), CallbackEffect.DEFERRED, State.SENT),
    (told(State.SENT, WAITING, GOING), CallbackEffect.NOTHING, State.SENT),
    (told(State.SENT, WAITING, Callback("j", JobStatus.SCHEDULED)), CallbackEffect.NOTHING, State.SENT),
    (
        told(State.SENT, WAITING._replace(pending_status=JobStatus.COMPLETED), FAILED),
        CallbackEffect.NOTHING,
        State.SENT,
    ),
    (told(State.SENT, WAITING, Callback("other", JobStatus.COMPLETED)), CallbackEffect.CONTRADICTORY, State.SENT),
    # it was given up, or is in doubt: the first word resolves it, and stops its retry
    (told(State.PENDING, CLOSED, GOING), CallbackEffect.ACCEPTED, State.ACCEPTED),
    (told(State.IN_DOUBT, CLOSED, DONE), CallbackEffect.ACCEPTED, State.COMPLETED),
    (told(State.IN_DOUBT, CLOSED, GOING, "an answer not trusted"), CallbackEffect.ACCEPTED, State.ACCEPTED),
    (told(State.REFUSED, CLOSED, FAILED), CallbackEffect.ACCEPTED, State.FAILED),
    # too late for that: its retry is under way, or is a job
    (told(State.SENDING, CLOSED, GOING), CallbackEffect.DEFERRED, State.SENDING),
    (told(State.SENT, CLOSED, GOING), CallbackEffect.DEFERRED, State.SENT),
    (told(State.ACCEPTED, CLOSED, GOING, "k"), CallbackEffect.DUPLICATE_APPEND, State.ACCEPTED),
    (told(State.COMPLETED, CLOSED, DONE, "k"), CallbackEffect.DUPLICATE_APPEND, State.COMPLETED),
    (told(State.FAILED, CLOSED, GOING, "k"), CallbackEffect.DUPLICATE_APPEND, State.FAILED),
    (told(State.DROPPED, CLOSED, GOING), CallbackEffect.DUPLICATE_APPEND, State.DROPPED),
    # what was said of it already changes nothing
    (told(State.COMPLETED, KNOWN, DONE, "k"), CallbackEffect.NOTHING, State.COMPLETED),
    (told(State.DROPPED, KNOWN, DONE), CallbackEffect.NOTHING, State.DROPPED),
    # the job that is known
    (told(State.ACCEPTED, KNOWN, GOING, "j"), CallbackEffect.NOTHING, State.ACCEPTED),
    (told(State.ACCEPTED, KNOWN, DONE, "j"), CallbackEffect.ENDED, State.COMPLETED),
    (told(State.ACCEPTED, KNOWN, FAILED, "j"), CallbackEffect.ENDED, State.FAILED),
    (told(State.COMPLETED, KNOWN, FAILED, "j"), CallbackEffect.NOTHING, State.COMPLETED),
    (told(State.FAILED, KNOWN, DONE, "j"), CallbackEffect.NOTHING, State.FAILED),
    (
        told(State.ACCEPTED, KNOWN, Callback("other", JobStatus.FAILED), "j"),
        CallbackEffect.CONTRADICTORY,
        State.ACCEPTED,
    ),
    # a person named it, or said that there is one, or had the failed one sent again
    (told(State.ACCEPTED, CLOSED, DONE, "j"), CallbackEffect.ENDED, State.COMPLETED),
    (told(State.COMPLETED, CLOSED, DONE), CallbackEffect.DEFERRED, State.COMPLETED),
    (told(State.PENDING, KNOWN, FAILED), CallbackEffect.NOTHING, State.PENDING),
    (told(State.SENT, KNOWN, FAILED), CallbackEffect.NOTHING, State.SENT),
]


@pytest.mark.parametrize(("item", "effect", "state"), CALLBACKS)
def test_the_table_of_callbacks(item: ItemFacts, effect: CallbackEffect, state: State) -> None:
    """The first callback for an attempt says which job it became; from then on only the end of that job counts."""
    resolved = resolve_item(item)
    assert (resolved.effect, resolved.state) == (effect, state)
    is_named = effect is CallbackEffect.ACCEPTED
    assert (resolved.job_id, list(resolved.applied)) == (("j", [1]) if is_named else (item.job_id, []))
    assert resolve_item(item._replace(names_other_job=True)).effect is CallbackEffect.CONTRADICTORY


@given(
    st.sampled_from(State),
    st.sampled_from([None, "j", "k"]),
    st.sampled_from([OPEN, CLOSED, WAITING, KNOWN]),
    st.sampled_from(JobStatus),
)
def test_the_job_of_another_item_is_never_taken(
    state: State, job_id: str | None, attempt: AttemptFacts, status: JobStatus
) -> None:
    """A jobId belongs to one item of an account, whatever a callback says: it changes nothing."""
    item = told(state, attempt, Callback("j", status), job_id)._replace(names_other_job=True)
    resolved = resolve_item(item)
    reason = "another item of this account has that job"
    assert resolved == (state, job_id, CallbackEffect.CONTRADICTORY, None, None, (), None, None, reason)


IN_DOUBT = Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, "no answer")
CUT_OFF = Verdict(Outcome.CUT_OFF, State.PENDING, Next.AGAIN, "reset")
THROTTLED = Verdict(Outcome.THROTTLED, State.PENDING, Next.COOL_DOWN, "HTTP 429")
REFUSED = Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, "HTTP 404")
UNTRUSTED = Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, "another conversation", "untrusted")
APPLIED = Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, "HTTP 201", "k")
FIRST = AttemptFacts(11, 1, Outcome.CUT_OFF, Callback("first", JobStatus.SCHEDULED))


def own(callback: Callback) -> AttemptFacts:
    """Make the facts of the second attempt, which is out, and of which a callback has told."""
    return AttemptFacts(12, 2, None, callback)


@pytest.mark.parametrize("verdict", [IN_DOUBT, UNTRUSTED, CUT_OFF, THROTTLED, REFUSED])
def test_a_callback_resolves_what_the_reply_left_open(verdict: Verdict) -> None:
    """The job that a callback named is the outcome, whatever the reply lacked; of the attempt itself, too."""
    resolved = resolve_item(ItemFacts.after(verdict, 2, [own(GOING)]))
    reason = f"{verdict.reason}; the webhook named its job"
    named = Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, reason, "j")
    assert (resolved.state, resolved.verdict, resolved.attempt_verdict) == (State.ACCEPTED, named, named)
    by_first = resolve_item(ItemFacts.after(verdict, 2, [FIRST]))
    assert (by_first.state, by_first.job_id, by_first.applied) == (State.ACCEPTED, "first", [11])
    assert by_first.attempt_verdict is None
    alone = resolve_item(ItemFacts.after(verdict, 2, []))
    assert (alone.state, alone.job_id, alone.verdict) == (verdict.state, verdict.job_id, None)


@pytest.mark.parametrize("attempts", [[own(DONE)], [FIRST], [own(DONE), FIRST], []])
def test_an_answer_outranks_a_callback(attempts: Sequence[AttemptFacts]) -> None:
    """The jobId of a trusted answer stands, and no other job ends its item."""
    resolved = resolve_item(ItemFacts.after(APPLIED, 2, attempts))
    assert (resolved.state, resolved.job_id, resolved.verdict) == (State.ACCEPTED, "k", None)


@pytest.mark.parametrize(
    ("status", "state"),
    [("scheduled", "accepted"), ("in_progress", "accepted"), ("completed", "completed"), ("failed", "failed")],
)
@pytest.mark.parametrize("verdict", [APPLIED, IN_DOUBT])
def test_a_job_may_have_ended_before_its_reply(verdict: Verdict, status: str, state: str) -> None:
    """The status of the item's own job counts, by a callback before the reply as by a poll after it."""
    resolved = resolve_item(ItemFacts.after(verdict, 2, [own(Callback("k", JobStatus(status))), FIRST]))
    assert (resolved.state, resolved.job_status) == (state, status)
    polled = resolve_item(ItemFacts(State.ACCEPTED, "k", polled=JobStatus(status)))
    assert (polled.state, polled.job_id, polled.anomaly) == (state, "k", None)


TWICE = "appended once too often: as job first (attempt 1) beside job"
TAKEN = "was taken for cut off, and the service made job"
ANOMALIES = [
    (APPLIED, [own(Callback("k", JobStatus.SCHEDULED))], None),
    (APPLIED, [own(GOING)], "attempt 2 is job k by its answer and job j by the webhook"),
    (APPLIED, [own(GOING), FIRST], f"attempt 2 is job k by its answer and job j by the webhook; {TWICE} k"),
    (APPLIED, [FIRST], f"{TWICE} k"),
    (IN_DOUBT, [own(GOING)], None),
    (IN_DOUBT, [own(GOING), FIRST], f"{TWICE} j"),
    (IN_DOUBT, [FIRST], "appended as job first; attempt 2 may have appended it once too often"),
    (CUT_OFF, [own(GOING)], f"attempt 2 {TAKEN} j of it"),
    (CUT_OFF, [own(GOING), FIRST], f"{TWICE} j"),
    (CUT_OFF, [FIRST], f"attempt 1 {TAKEN} first of it"),
    (CUT_OFF, [], None),
]


@pytest.mark.parametrize(("verdict", "attempts", "anomaly"), ANOMALIES)
def test_what_is_out_of_order_is_reported(
    verdict: Verdict, attempts: Sequence[AttemptFacts], anomaly: str | None
) -> None:
    """An append too many, and a job of what was thought cut off, are reported with their jobIds."""
    assert resolve_item(ItemFacts.after(verdict, 2, attempts)).anomaly == anomaly


@pytest.mark.parametrize(
    ("verdict", "attempts", "by", "first"),
    [
        (APPLIED, [], "k", f"{TWICE} k"),
        (CUT_OFF, [], "first", f"attempt 1 {TAKEN} first of it"),
        (IN_DOUBT, [own(GOING)._replace(number=3)], "j", f"{TWICE} j"),
    ],
)
def test_every_append_too_many_is_reported(
    verdict: Verdict, attempts: Sequence[AttemptFacts], by: str, first: str
) -> None:
    """Several earlier attempts may have become jobs: each of them is reported, and counts as applied."""
    before = [FIRST._replace(attempt_id=id_, callback=Callback(f"job-{id_}", JobStatus.SCHEDULED)) for id_ in (9, 8)]
    more = [f"appended once too often: as job job-{one.attempt_id} (attempt 1) beside job {by}" for one in before]
    resolved = resolve_item(ItemFacts.after(verdict, 3, [*attempts, FIRST, *before]))
    assert resolved.anomaly == "; ".join([first, *more])
    assert resolved.applied == [11, 9, 8]


@given(
    st.sampled_from(State),
    st.sampled_from([None, "j", "k"]),
    st.sampled_from([OPEN, CLOSED, WAITING, KNOWN]),
    st.sampled_from([GOING, DONE, FAILED]),
)
def test_a_callback_takes_nothing_back(
    state: State, job_id: str | None, attempt: AttemptFacts, callback: Callback
) -> None:
    """No callback makes an item pending, refused or in doubt, ends what is under way, or renames the job of an item."""
    resolved = resolve_item(told(state, attempt, callback, job_id))
    assert resolved.state in {state, State.ACCEPTED, State.COMPLETED, State.FAILED}
    if state in UNDER_WAY or state in {State.COMPLETED, State.FAILED, State.DROPPED}:
        assert (resolved.state, resolved.job_id) == (state, job_id)
    if state is State.ACCEPTED:
        assert resolved.job_id == job_id
