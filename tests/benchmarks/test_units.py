"""The benchmarks' own small decisions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import corpus
from tests.benchmarks.corpus import Recording
from tests.benchmarks.idle import idle_seconds
from tests.benchmarks.judging import Judged, are_over, judge, taken_by_others
from tests.benchmarks.losses import Losses, losses
from tests.benchmarks.measures import nights
from tests.benchmarks.schedule import Job, Taken, ideal, longest_conversation, lower_bound
from tests.benchmarks.table import HEADER, Must, Row, at_least, at_most, markdown, number, plain
from uploader.model import Order
from uploader.sandbox import Journal, SandboxSettings
from uploader.sandbox.entries import Entry, JobEntry, PollEntry, PutBegun, PutEntry, PutRest, TokenEntry

JOBS = st.lists(st.builds(Job, st.sampled_from("abcd"), st.floats(0.1, 100.0)), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("must", "value", "ratio", "holds"),
    [
        pytest.param(at_most(1.03), 1.03, None, True, id="just so"),
        pytest.param(at_most(1.03), 1.04, None, False, id="above"),
        pytest.param(at_least(0.6), 0.59, None, False, id="below"),
        pytest.param(at_least(0.6), 100.0, 0.59, False, id="the ratio counts where there is one"),
        pytest.param(at_most(0), 0.0, None, True, id="nothing at all"),
        pytest.param(None, 5.0, None, None, id="nothing is demanded"),
    ],
)
def test_a_row_knows_whether_it_holds(must: Must | None, value: float, ratio: float | None, holds: bool | None) -> None:
    """A demand is about the ratio to the peer where there is one, else about the value; the bound itself holds."""
    assert Row(figure="f", of="ours", value=value, ratio=ratio, must=must).holds is holds


def test_of_work_that_was_not_done_no_figure_holds() -> None:
    """Who appended nothing took no time, and met no refusal: that is no good figure."""
    assert Row(figure="f", of="ours", value=0.0, must=at_most(1.03), whole=False).holds is False
    assert Row(figure="f", of="a peer", value=0.0, whole=False).holds is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (12345.6, "12,346"), (1.0234, "1.023"), (0.5, "0.5"), (123.45, "123.5")],
)
def test_a_number_is_shown_as_short_as_it_can_be(value: float, shown: str) -> None:
    """Three decimals where they tell something."""
    assert number(value) == shown


def test_the_table_shows_every_row_in_both_forms() -> None:
    """The same cells on the terminal and in Markdown, a failed demand in capitals."""
    rows = [
        Row(figure="makespan", of="ours", value=1.02, must=at_most(1.03)),
        Row(figure="makespan", of="a script", value=1.3, beside="ours", ratio=1.27, must=at_most(1.2), remarks="slow"),
    ]
    shown, told = plain(rows), markdown(rows, "somewhere")
    assert len(shown.splitlines()) == 2 + len(rows)
    assert "| makespan | ours | 1.02 |  |  | ≤ 1.03 | yes |  |" in told
    assert "| makespan | a script | 1.3 | ours | 1.27 times | ≤ 1.2 | NO | slow |" in told
    assert told.count(" | ".join(HEADER)) == 1


def jobs(*lanes: Sequence[float]) -> list[Job]:
    """One conversation for each list of seconds, one after the other in the manifest."""
    return [Job(str(name), each) for name, lane in enumerate(lanes) for each in lane]


@pytest.mark.parametrize(
    ("taken", "bound"),
    [
        pytest.param((), 12.0, id="all slots are ours"),
        pytest.param([(0.0, 1)], 24.0, id="others have one of two all the time"),
        pytest.param([(0.0, 1), (6.0, 0)], 15.0, id="until then"),
        pytest.param([(10.0, 1)], 14.0, id="from then on"),
        pytest.param([(0.0, 2), (5.0, 0)], 17.0, id="all of them for a while"),
        pytest.param([(12.0, 2)], 12.0, id="after we are done"),
        pytest.param([(0.0, 2)], float("inf"), id="for ever"),
    ],
)
def test_the_bound_counts_the_slots_that_others_leave(taken: Taken, bound: float) -> None:
    """No schedule ends before all the work is done in all the slots that there are."""
    assert lower_bound(jobs([6.0], [6.0], [6.0], [6.0]), 2, taken) == pytest.approx(bound)


def test_the_longest_conversation_is_a_bound_too() -> None:
    """Its jobs run one after the other, however many slots there are."""
    assert lower_bound(jobs([5.0, 5.0, 5.0], [1.0]), 10) == longest_conversation(jobs([5.0, 5.0, 5.0], [1.0])) == 15.0


def test_the_longest_conversation_first_is_what_makes_the_end_early() -> None:
    """In manifest order the long one begins when the others are done."""
    night = jobs([2.0], [2.0], [2.0], [2.0], [4.0, 4.0])
    assert lower_bound(night, 2) == 8.0
    assert ideal(night, 2, Order.MANIFEST) == 12.0
    assert ideal(night, 2, Order.LONGEST_LANE_FIRST) == 8.0


@given(JOBS, st.integers(1, 6), st.sampled_from(Order))
def test_no_schedule_beats_the_bound(night: list[Job], limit: int, order: Order) -> None:
    """And none that leaves no slot free without need takes more than both of the bound's terms together."""
    bound = lower_bound(night, limit)
    everything = sum(job.seconds for job in night) / limit + longest_conversation(night)
    assert bound * (1 - 1e-9) <= ideal(night, limit, order) <= everything * (1 + 1e-9)


def test_the_corpus_is_what_the_rows_are_about() -> None:
    """300 files, 60 conversations, 36 MiB, jobs of 1 to 70 s; order matters on it; the same bytes each time."""
    settings = SandboxSettings(job_seconds=0.6, job_seconds_per_mebibyte=40.0, job_scatter=0.2)
    night = corpus.recordings(settings)
    mebibytes = sum(len(one.content) for one in night) / 2**20
    assert (len(night), len({one.conversation for one in night}), round(mebibytes)) == (300, 60, 36)
    seconds = [one.job.seconds for one in night]
    assert 0.5 < min(seconds) < 1.5
    assert 60.0 < max(seconds) < 75.0
    bound = lower_bound([one.job for one in night], 10)
    assert ideal([one.job for one in night], 10, Order.MANIFEST) / bound == pytest.approx(1.21, abs=0.01)
    assert ideal([one.job for one in night], 10, Order.LONGEST_LANE_FIRST) / bound == pytest.approx(1.0, abs=0.005)
    assert [one.sha256 for one in corpus.recordings(settings)] == [one.sha256 for one in night]


def put(at: float, number: int, conversation: str, content: str, status: int, *, size: int = 100) -> Iterator[Entry]:
    """A PUT that took a second, and its job's begin."""
    job_id = f"job-{number}" if status == 201 else None
    yield PutBegun(at=at - 1.0, number=number, conversation_id=conversation, live=number)
    if job_id:
        yield JobEntry(
            event="job-begun", at=at, job_id=job_id, conversation_id=conversation, status="scheduled", live=number
        )
    yield PutEntry(
        at=at,
        number=number,
        conversation_id=conversation,
        status=status,
        job_id=job_id,
        fault=None,
        bytes=size,
        content_length=size,
        sha256=content,
        live=number,
        limit=10,
        headers={},
        query=(),
    )


def end(at: float, number: int, conversation: str) -> JobEntry:
    """A job's end."""
    return JobEntry(
        event="job-ended", at=at, job_id=f"job-{number}", conversation_id=conversation, status="completed", live=0
    )


def journal(*entries: Entry) -> Journal:
    """A journal that holds these."""
    kept = Journal()
    kept.entries = list(entries)
    return kept


def row(conversation: str, content: str) -> Recording:
    """A row whose content is known by its hash alone."""
    return Recording(conversation, f"{content}.wav", b"", content, Job(conversation, 1.0))


CORPUS = [row("a", "a1"), row("a", "a2"), row("a", "a3"), row("b", "b1")]
FOREIGN = [*put(5.0, 7, "foreign", "f", 201), *put(6.0, 8, "foreign", "f", 429), end(9.0, 7, "foreign")]


def test_the_journal_is_read_as_it_was_written() -> None:
    """Refusals and their bytes, polls, order, repeats and the end; what others did does not count."""
    night = journal(
        TokenEntry(at=2.0, status=200),
        *put(4.0, 1, "a", "a2", 201),
        *put(4.5, 2, "b", "b1", 429, size=50),
        PutRest(at=4.6, number=2, conversation_id="b", bytes=7),
        *FOREIGN,
        *put(6.0, 3, "a", "a1", 201),
        *put(7.0, 4, "a", "a1", 201),
        PollEntry(at=7.5, job_id="job-1", status=200, job="in_progress"),
        PollEntry(at=7.6, job_id="job-7", status=200, job="in_progress"),
        end(8.0, 1, "a"),
        end(8.2, 3, "a"),
        end(8.5, 4, "a"),
    )
    assert judge(night, CORPUS) == Judged(
        seconds=5.5,
        before_seconds=1.0,
        appended=2,
        refusals=1,
        bytes_in_vain=57,
        bodies_in_vain=1,
        status_requests=1,
        out_of_order=2,
        twice=1,
        peak_live=8,
    )
    assert taken_by_others(night, CORPUS) == [(1.0, 1), (6.0, 0)]
    assert are_over(night)


def test_a_night_that_is_not_over_is_told() -> None:
    """A job that still runs, and what a client took until then."""
    night = journal(TokenEntry(at=2.0, status=200), *put(4.0, 1, "a", "a1", 201))
    assert not are_over(night)
    assert (judge(night, CORPUS).seconds, judge(night, CORPUS).before_seconds) == (1.0, 1.0)


def test_what_a_makespan_is_made_of_adds_up() -> None:
    """Two slots for ten seconds: what ran, what waited, what was free; every second of a slot is in one of them."""
    night = journal(
        TokenEntry(at=-0.5, status=200),  # the command is started
        TokenEntry(at=0.0, status=200),  # and sends its first request
        *put(2.0, 1, "a", "a1", 201),  # from 1 to 2 an upload, then a job until 6
        # from 3 to 4 an upload that no slot waits for, then behind the first until 6, a job until 9
        *put(4.0, 2, "a", "a2", 201),
        end(6.0, 1, "a"),
        end(9.0, 2, "a"),
        *put(9.5, 3, "b", "b1", 201),
        end(10.0, 3, "b"),
    )
    corpus = [row("a", "a1"), row("a", "a2"), row("b", "b1")]
    found = losses(night, corpus, 2)
    in_seconds = [round(20 * share, 6) for share in (found.start, found.upload, found.behind, found.late, found.lack)]
    assert in_seconds == [2.0, 2.0, 2.0, 5.5, 1.0]
    ran = 4.0 + 3.0 + 0.5
    assert sum(in_seconds) + ran == 20.0


def test_losses_are_told_in_words() -> None:
    """What is nothing is left out."""
    assert (
        str(Losses(start=0.019, upload=0.0, behind=0.0, late=0.1, lack=0.0)) == "start 1.9%, late notice or claim 10.0%"
    )


def test_a_slot_idles_from_a_jobs_end_to_the_next_job_in_it() -> None:
    """Slots are matched as intervals; the mean is over those in which a job followed another."""
    night = journal(
        *put(1.0, 1, "a", "a1", 201),
        *put(1.5, 2, "b", "b1", 201),
        end(3.0, 1, "a"),
        *put(4.0, 3, "c", "c1", 201),  # a second in the slot of the first
        end(4.5, 2, "b"),
        end(6.0, 3, "c"),
        *put(7.5, 4, "d", "d1", 201),  # in the slot that is free the longest: since 4.5
        end(9.0, 4, "d"),
    )
    corpus = [row(name, f"{name}1") for name in "abcd"]
    assert idle_seconds(night, corpus, 2) == pytest.approx((1.0 + 3.0) / 2)
    assert idle_seconds(night, corpus, 3) == pytest.approx(4.5), "a slot without a job before is taken first"
    assert idle_seconds(night, corpus, 4) == 0.0, "no slot had two jobs"


def test_a_slot_idles_only_while_there_is_a_lane_for_it() -> None:
    """One lane goes on alone: nine of ten slots have nothing to wait for, and the tenth waits for the lane."""
    lone = [entry for n in range(20) for entry in (*put(10.0 + n, n, "a", f"a{n}", 201), end(10.75 + n, n, "a"))]
    others = [entry for n in range(9) for entry in (*put(0.0, 50 + n, str(n), f"b{n}", 201), end(0.5, 50 + n, str(n)))]
    corpus = [row("a", f"a{n}") for n in range(20)] + [row(str(n), f"b{n}") for n in range(9)]
    assert idle_seconds(journal(*others, *lone), corpus, 10) == pytest.approx(0.25)


def test_where_uploads_count_a_slot_idles_until_the_next_head() -> None:
    """The upload is a use of the slot then, and no idle time."""
    night = journal(
        *put(2.0, 1, "a", "a1", 201),
        end(3.0, 1, "a"),
        *put(3.5, 9, "b", "b1", 429),  # a refusal takes no slot
        *put(5.0, 2, "b", "b1", 201),
        end(6.0, 2, "b"),
    )
    corpus = [row("a", "a1"), row("b", "b1")]
    assert idle_seconds(night, corpus, 1) == pytest.approx(2.0)
    assert idle_seconds(night, corpus, 1, counts_uploads=True) == pytest.approx(1.0)


@pytest.mark.parametrize("night", nights.NIGHTS, ids=lambda night: night.name)
def test_a_night_is_ideal_where_no_slot_waits(night: nights.Night) -> None:
    """An ideal list schedule of each night is close to its bound: what is above it is the client's doing."""
    small = replace(night, file_bytes=min(night.file_bytes, 4096))
    work = small.in_slots(small.recordings())
    assert len(work) == sum(conversations * files for conversations, files in night.lanes)
    bound = lower_bound(work, night.settings.limit)
    assert bound <= ideal(work, night.settings.limit, Order.LONGEST_LANE_FIRST) <= 1.05 * bound


def test_a_night_is_shortened_in_all_its_times() -> None:
    """Each of its seconds, bandwidth included, and its files; the figures of a short night are held to nothing."""
    for night in nights.NIGHTS:
        short, old = night.scaled(0.1, 10), night.settings
        times = (short.settings.job_seconds, short.settings.answer_seconds, short.settings.round_trip)
        assert times == pytest.approx([0.1 * each for each in (old.job_seconds, old.answer_seconds, old.round_trip)])
        assert short.settings.uplink == pytest.approx(10 * old.uplink)
        assert short.settings.counts_uploads == old.counts_uploads
        assert 5 <= sum(one * many for one, many in short.lanes) <= sum(one * many for one, many in night.lanes) / 9
        assert (short.over_ideal, short.by_webhook) == (None, None)
