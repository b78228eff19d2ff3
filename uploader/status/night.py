"""The picture of a night: who was in which slot when, with doubts, 429s and pauses, in a bounded number of pieces."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from uploader.ledger.history import SlotSpan
from uploader.model import Outcome, State
from uploader.results import rfc3339
from uploader.status.formatting import format_count
from uploader.status.timeline import PAUSE_SECONDS

# the most slots that are drawn, and the most pieces of all of them together
MOST_ROWS = 60
MOST_PIECES = 8000
# the most doubts, failures and 429s in the list
MOST_MARKED = 100
# a time without any attempt or job is marked from this share of the night on, and from this many seconds on
PAUSE_SHARE = 0.01
LEAST_PAUSE_SECONDS = 10.0
# the kinds of pieces from the gravest on: several in one piece are shown as the gravest
KINDS = ("in_doubt", "failed", "refused", "throttled", "other", "sending", "sent", "accepted", "completed")
MARKED = ("in_doubt", "failed", "refused", "throttled")


class Piece(NamedTuple):
    """A stretch of a slot; times are seconds since the night's begin."""

    begin: float
    end: float
    kind: str
    text: str


def kind_of(span: SlotSpan) -> str:
    """Return the kind of an attempt's piece: the state of its item, as far as this attempt decided it."""
    if span.outcome is Outcome.THROTTLED:
        return "throttled"
    if span.outcome is Outcome.IN_DOUBT:
        return State.IN_DOUBT.value
    if span.outcome is None:  # under way
        return span.state.value if span.state.value in KINDS else "other"
    if span.outcome is Outcome.APPLIED:
        # a job that a person had to settle had failed, or had not ended
        is_open = span.is_latest and span.settled_at is None
        return span.state.value if is_open and span.state.value in KINDS else State.FAILED.value
    return State.REFUSED.value if span.outcome is Outcome.REFUSED else "other"


def with_bounded_slots(spans: Sequence[SlotSpan]) -> list[SlotSpan]:
    """Bound the slots of what was settled: the ledger keeps when that was, not when the slot was given back.

    No doubt holds a slot for longer than three times the longest job.
    """
    ended = (span.attempt for span in spans if kind_of(span) == State.COMPLETED.value)
    longest = max(((job.freed_at or 0.0) - (job.admitted_at or 0.0) for job in ended), default=None)
    return [span if longest is None else _bounded(span, 3 * longest) for span in spans]


def _bounded(span: SlotSpan, most: float) -> SlotSpan:
    attempt = span.attempt
    if span.settled_at is None or attempt.ended_at is None or attempt.freed_at is None:
        return span
    return span._replace(attempt=attempt._replace(freed_at=min(attempt.freed_at, attempt.ended_at + most)))


def nights(spans: Iterable[SlotSpan], now: float) -> Iterator[list[SlotSpan]]:
    """Split attempts into nights, where nothing was under way for a long time."""
    night: list[SlotSpan] = []
    end = 0.0
    for span in spans:
        if night and span.attempt.started_at > end + PAUSE_SECONDS:
            yield night
            night = []
        night.append(span)
        end = max(end, _end(span, now))
    if night:
        yield night


def night_json(spans: Sequence[SlotSpan], now: float, elsewhere: int = 0) -> dict[str, Any]:
    """Return the picture of a night as JSON.

    Args:
        spans: The night's attempts, in the order in which they began.
        elsewhere: Attempts at other times.
    """
    if not spans:
        return {"from": None, "until": None, "rows": [], "throttles": [], "pauses": [], "marked": [], "more": 0}
    begin = min(span.attempt.started_at for span in spans)
    end = max(begin + 1.0, *(_end(span, now) for span in spans))
    rows = _rows(spans, begin, now)
    drawn = rows[:MOST_ROWS]
    least = (end - begin) * len(drawn) / MOST_PIECES
    throttles = [span.attempt.ended_at or now for span in spans if span.outcome is Outcome.THROTTLED]
    marked = [span for span in spans if kind_of(span) in MARKED]
    return {
        "from": rfc3339(begin),
        "until": rfc3339(end),
        "rows": [[_piece_json(piece) for piece in _merged(row, least)] for row in drawn],
        "more": len(rows) - len(drawn),
        "elsewhere": elsewhere,
        "throttles": sorted({round((at - begin) / least) * least if least else at - begin for at in throttles}),
        "pauses": [[round(a - begin, 1), round(b - begin, 1)] for a, b in _pauses(spans, end - begin, now)],
        "marked": [
            [rfc3339(span.attempt.ended_at or now), kind_of(span), _text(span)] for span in marked[:MOST_MARKED]
        ],
        "moreMarked": max(len(marked) - MOST_MARKED, 0),
    }


def _end(span: SlotSpan, now: float) -> float:
    """Return when an attempt gave back its slot, or was over; now where that is to come."""
    ends = (span.attempt.ended_at, span.attempt.freed_at if span.attempt.admitted_at is not None else None)
    if span.attempt.is_open_at(now):
        return now
    return min(max(end for end in ends if end is not None), now)


def _rows(spans: Iterable[SlotSpan], begin: float, now: float) -> list[list[Piece]]:
    """Place each attempt that had a slot into the first row that is free."""
    rows: list[list[Piece]] = []
    free: list[int] = []
    taken: list[tuple[float, int]] = []
    with_slot = [span for span in spans if span.attempt.admitted_at is not None]
    for span in sorted(with_slot, key=lambda span: span.attempt.admitted_at or 0.0):
        admitted_at = span.attempt.admitted_at or 0.0
        while taken and taken[0][0] <= admitted_at:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row = len(rows)
            rows.append([])
        end = max(_end(span, now), admitted_at)
        heapq.heappush(taken, (end, row))
        rows[row].append(Piece(admitted_at - begin, end - begin, kind_of(span), _text(span)))
    return rows


def _merged(row: Iterable[Piece], least: float) -> Iterator[Piece]:
    """Join pieces that are too short to be seen apart."""
    for _, together in groupby(row, key=lambda piece: int(piece.begin / least) if least else piece.begin):
        pieces = list(together)
        kind = min((piece.kind for piece in pieces), key=KINDS.index)
        text = pieces[0].text if len(pieces) == 1 else format_count(len(pieces), "attempt")
        yield Piece(pieces[0].begin, max(piece.end for piece in pieces), kind, text)


def _pauses(spans: Sequence[SlotSpan], seconds: float, now: float) -> Iterator[tuple[float, float]]:
    """Yield the times in which nothing was under way."""
    least = max(LEAST_PAUSE_SECONDS, PAUSE_SHARE * seconds)
    busy_until = spans[0].attempt.started_at
    for span in sorted(spans, key=attrgetter("attempt.started_at")):
        if span.attempt.started_at - busy_until >= least:
            yield busy_until, span.attempt.started_at
        busy_until = max(busy_until, _end(span, now))


def _text(span: SlotSpan) -> str:
    job = f", job {span.job_id}" if span.job_id else ""
    return f"line {span.line} of {span.batch}, {span.conversation_id}{job}"


def _piece_json(piece: Piece) -> list[Any]:
    return [round(piece.begin, 2), round(piece.end, 2), piece.kind, piece.text]
