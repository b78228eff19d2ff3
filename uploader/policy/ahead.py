"""Prediction for bodies that are sent ahead: the slots and lanes that are free by the time a body has arrived."""

from collections.abc import Collection, Mapping
from math import ceil
from typing import NamedTuple

from uploader.policy.durations import DurationModel

# a lane's job that ends with this probability while a body travels lets the next one of its lane begin
LIKELY = 0.5
# seconds of claim and admission beside the body's travel
STEPS_SECONDS = 0.05
# a body begins earlier than its travel asks for, by as much again, these seconds at most: a wait costs next to
# nothing, a late body costs its slot's time
MARGIN_SECONDS = 0.5
# the lead before the first body is answered, in seconds
FIRST_LEAD_SECONDS = 0.5
# an attempt that begins earlier may wait for longer than its connection lives, however long bodies take
MAX_LEAD_SECONDS = 10.0
# an answer that takes longer than the quickest one by this share and these seconds came late for its body's travel
LATE_SHARE, LATE_SECONDS = 0.25, 0.05
# slower bodies are sent ahead before any job has ended: waiting for the first end would cost more
SLOW_SECONDS = 1.0
# seconds without a refusal after which a first body sent ahead lets others follow
TRIAL_SECONDS = 1.0
# a body that waits for its admission sends a byte after so long a silence: gateways end a request of which nothing
# comes (nginx and AWS's load balancers after 60 s, hardened ones after 10 s or less, and none that counts in seconds
# after less than one), or whose body is not there in 20 s (Apache, by default)
SILENCE_SECONDS = 0.75
# gateways cut at once all that wait: one body at a time tries that silence, those beside it are silent for no longer
# than this time, or than this share of what was borne
UNTRIED_SILENCE_SECONDS = 0.2
BORNE_SHARE = 0.8
# the weight of a body that had arrived in time: the lead shrinks slowly, until bodies come late again
MEMORY = 1 / 32
FLOOR_GROWTH = 1.02
CHECKS_WITHIN_HORIZON = 8.0
MIN_CHECK_SECONDS, MAX_CHECK_SECONDS = 0.02, 0.5


class Lead(NamedTuple):
    """The time before its turn at which an attempt begins, so that its body has arrived by then.

    What is in the buffers of the kernel, of a proxy or of a gateway counts as gone out on this side: that it had not
    arrived shows in answers that come later than those to bodies that had a long lead.
    """

    seconds: float = FIRST_LEAD_SECONDS
    # the quickest answer to a body that had the whole lead; None before the first
    floor: float | None = None
    is_learned: bool = False


def after_answer(lead: Lead, sent_seconds: float, waited_seconds: float, answer_seconds: float) -> Lead:
    """Learn from an accepted upload how long before its turn an attempt begins.

    Args:
        lead: The lead before.
        sent_seconds: From its claim to its last chunk.
        waited_seconds: Then to its admission.
        answer_seconds: Then to its answer.
    """
    floor = lead.floor
    if sent_seconds + waited_seconds >= min(lead.seconds, MAX_LEAD_SECONDS) and lead.is_learned:
        floor = answer_seconds if floor is None else min(answer_seconds, floor * FLOOR_GROWTH)
    quickest = floor or 0.0
    is_late = answer_seconds > quickest * (1.0 + LATE_SHARE) + LATE_SECONDS
    # as long as no body had the whole lead, all of the answer's time may be the body's travel
    needed = sent_seconds + (waited_seconds + answer_seconds - quickest if is_late else 0.0)
    seconds = (
        needed if needed > lead.seconds or not lead.is_learned else lead.seconds + (needed - lead.seconds) * MEMORY
    )
    return Lead(min(seconds, MAX_LEAD_SECONDS), floor, is_learned=True)


def horizon_seconds(lead: Lead) -> float:
    """Return how far ahead slots and lanes are foreseen."""
    return lead.seconds + min(lead.seconds, MARGIN_SECONDS) + STEPS_SECONDS


def check_seconds(horizon: float) -> float:
    """Return after how long, without an event, to look anew whether an attempt is to begin."""
    return min(max(horizon / CHECKS_WITHIN_HORIZON, MIN_CHECK_SECONDS), MAX_CHECK_SECONDS)


def blind_slots(in_force: int, travel_seconds: float, *, was_cut: bool, may_try: bool) -> int:
    """Count the bodies that may be sent ahead while no job has shown how long jobs take.

    Slow bodies are there by the time that the first jobs end. Of others a single one tries whether the service bears
    it, so that more may follow as soon as the first job has ended.

    Args:
        travel_seconds: What bodies are seen to take.
        was_cut: A body has been cut after it had waited for too long: jobs are long.
        may_try: A body has been answered, and none is on its way: where uploads count as jobs, one that is sent ahead
            takes no other's slot.
    """
    if was_cut:
        return 0
    return in_force if travel_seconds >= SLOW_SECONDS else int(may_try)


def slots_ahead(ends: Collection[float], in_force: int, jobs: DurationModel, horizon: float) -> int:
    """Count the slots that are foreseen to come free within the horizon, beside those that are free now.

    Args:
        ends: For each live job the probability that it ends within the horizon.
        jobs: The model of the account's jobs.
        horizon: In seconds.
    """
    # where bodies take longer than jobs, the jobs that follow the live ones end within the horizon, too; those that
    # began together end together, so that a part of a job's time counts as all of it
    following = in_force * max(ceil(horizon / jobs.typical_seconds) - 1, 0)
    return int(sum(ends) + following + 0.5)


def lanes_ahead(ends: Mapping[int, float]) -> list[int]:
    """List the lanes whose live job is foreseen to end within the horizon, by the probability for each."""
    return [lane_id for lane_id, probability in ends.items() if probability >= LIKELY]


def silence_seconds(borne_seconds: float, *, is_alone: bool) -> float:
    """Return the longest time without a byte for a body that begins to wait for its admission.

    Args:
        borne_seconds: The longest silence of a body that was accepted.
        is_alone: No other body waits.
    """
    return SILENCE_SECONDS if is_alone else max(UNTRIED_SILENCE_SECONDS, BORNE_SHARE * borne_seconds)
