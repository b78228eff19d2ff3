"""The sandbox's faults: what a faults file may say, and what the seed makes of it."""

import statistics
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from uploader.errors import UsageError
from uploader.sandbox import (
    JOB_ID_PREFIX,
    CallFaults,
    Faults,
    JobFaults,
    PollFaults,
    PutFaults,
    SandboxSettings,
    load_faults,
)
from uploader.sandbox.fault_plan import FaultPlan, plan_put, poll_fault, scatter
from uploader.sandbox.tokens import Tokens

WHOLE_FILE = """
seed = 7
early_answers = true
ignores_expect = true
unknown_conversations = ["gone"]
known_conversations = ["here", "there"]
[put]
lost_answer = 0.1
lost_before = 0.1
cut = 0.1
status_500 = 0.1
status_502 = 0.1
status_503 = 0.1
slow_answer = 0.1
throttled = 0.2
unauthorized = 0.05
cut_taken = 0.05
taken = 1
slow_seconds = 9
[jobs]
failed = 0.25
endless = 0.75
[poll]
status_500 = 0.5
lost_answer = 0.5
[calls]
lost = 0.1
twice = 0.2
late = 0.3
forged = 0.3
named_id = 0.1
late_seconds = 3
"""


def written(folder: Path, text: str) -> Path:
    """A faults file with this text."""
    path = folder / "faults.toml"
    path.write_text(text, encoding="utf-8")
    return path


def fault_plan(faults: Faults, number: int = 2000) -> list[FaultPlan]:
    """The fates of the first PUTs of one conversation."""
    return [plan_put(faults, "c", each) for each in range(1, number + 1)]


def test_every_key_of_a_faults_file_is_taken_over(tmp_path: Path) -> None:
    """A file that sets every key gives exactly the faults that it says."""
    assert load_faults(written(tmp_path, WHOLE_FILE)) == Faults(
        seed=7,
        early_answers=True,
        ignores_expect=True,
        unknown_conversations=frozenset({"gone"}),
        known_conversations=frozenset({"here", "there"}),
        put=PutFaults(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.05, 0.05, taken=1.0, slow_seconds=9.0),
        jobs=JobFaults(failed=0.25, endless=0.75),
        poll=PollFaults(status_500=0.5, lost_answer=0.5),
        calls=CallFaults(lost=0.1, twice=0.2, late=0.3, forged=0.3, named_id=0.1, late_seconds=3.0),
    )


def test_an_empty_file_asks_for_no_faults(tmp_path: Path) -> None:
    """Unset keys have their defaults, which are without faults."""
    faults = load_faults(written(tmp_path, ""))
    assert faults == Faults()
    assert {plan.fault for plan in fault_plan(faults, 100)} == {None}


@pytest.mark.parametrize(
    ("text", "key", "value", "remedy"),
    [
        ("sed = 1", "sed", "1", "no such key: use one of"),
        ("[put]\nlost = 0.1", "put.lost", "0.1", "no such key: use one of"),
        ("[polls]\nlost_answer = 0.1", "polls", "lost_answer", "no such key"),
        ("seed = 1.5", "seed", "1.5", "whole number"),
        ("seed = true", "seed", "True", "whole number"),
        ("early_answers = 1", "early_answers", "1", "true or false"),
        ('unknown_conversations = "a"', "unknown_conversations", "'a'", "list of conversation ids"),
        ("known_conversations = [1]", "known_conversations", "[1]", "list of conversation ids"),
        ("put = 1", "put", "1", "[put]"),
        ("[put]\ncut = 1.5", "put.cut", "1.5", "from 0 to 1"),
        ("[put]\ncut = -0.1", "put.cut", "-0.1", "from 0 to 1"),
        ("[put]\ncut = nan", "put.cut", "nan", "number"),
        ("[put]\ncut = true", "put.cut", "True", "number"),
        ('[put]\ntaken = "1"', "put.taken", "'1'", "number"),
        ("[put]\nslow_seconds = -1", "put.slow_seconds", "-1", "0 or more"),
        ("[put]\ncut = 0.6\nlost_answer = 0.5", "[put]", "cut = 0.6", "lower one"),
        ("[jobs]\nfailed = 0.6\nendless = 0.5", "[jobs]", "failed = 0.6", "lower one"),
        ("[calls]\nlost = 0.6\ntwice = 0.5", "[calls]", "twice = 0.5", "lower one"),
        ("[calls]\nlate_seconds = -1", "calls.late_seconds", "-1", "0 or more"),
        ("[poll]\nstatus_500 = 0.6\nlost_answer = 0.5", "[poll]", "0.5", "lower one"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, text: str, key: str, value: str, remedy: str) -> None:
    """Whatever is not understood is refused with file, key, value and remedy."""
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as refused:
        load_faults(path)
    for part in (str(path), key, value, remedy):
        assert part in str(refused.value)


def test_shares_that_make_one_on_paper_are_taken(tmp_path: Path) -> None:
    """A rounding in binary is no sum above 1, and `taken` is no part of the sum."""
    text = "[put]\nthrottled = 0.7\ncut = 0.1\nlost_answer = 0.1\nlost_before = 0.1\ntaken = 1.0"
    assert load_faults(written(tmp_path, text)).put.taken == 1.0


@pytest.mark.parametrize("text", [b"seed = ", b"\xff"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: bytes) -> None:
    """Broken TOML and broken UTF-8 are usage errors that name the file."""
    path = tmp_path / "faults.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=r"faults\.toml"):
        load_faults(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is a usage error, not an empty one."""
    with pytest.raises(UsageError, match="cannot be read"):
        load_faults(tmp_path / "nowhere.toml")


def test_the_same_seed_brings_the_same_plan() -> None:
    """A fate hangs on seed, conversation and number alone, whatever was drawn in between."""
    faults = Faults(seed=3, put=PutFaults(lost_answer=0.5), jobs=JobFaults(failed=0.5))
    first = [plan_put(faults, "a", number) for number in range(1, 50)]
    fault_plan(faults, 10)
    assert first == [plan_put(faults, "a", number) for number in range(1, 50)]
    assert first != [plan_put(faults, "b", number) for number in range(1, 50)]


def test_another_seed_brings_another_plan() -> None:
    """Two seeds differ in faults and in job ids."""
    first, two = (Faults(seed=seed, put=PutFaults(cut=0.5)) for seed in (1, 2))
    assert [plan.fault for plan in fault_plan(first)] != [plan.fault for plan in fault_plan(two)]
    assert not {plan.job_id for plan in fault_plan(first)} & {plan.job_id for plan in fault_plan(two)}


def test_job_ids_are_marked_and_never_repeat() -> None:
    """Every job id of a sandbox begins with its mark, and no two PUTs share one."""
    ids = [plan.job_id for plan in fault_plan(Faults())]
    assert all(each.startswith(JOB_ID_PREFIX) for each in ids)
    assert len(set(ids)) == len(ids)


def test_shares_come_out_as_asked() -> None:
    """Over many PUTs each fault, and no fault, come about as often as their shares say."""
    faults = Faults(put=PutFaults(lost_answer=0.2, cut=0.3), jobs=JobFaults(failed=0.1))
    drawn = fault_plan(faults)
    counted = Counter(plan.fault for plan in drawn)
    assert set(counted) == {"lost_answer", "cut", None}
    assert counted["lost_answer"] / len(drawn) == pytest.approx(0.2, abs=0.04)
    assert counted["cut"] / len(drawn) == pytest.approx(0.3, abs=0.04)
    assert sum(plan.ending == "failed" for plan in drawn) / len(drawn) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("fault", "made"),
    [
        (None, True),
        ("lost_answer", True),
        ("slow_answer", True),
        ("lost_before", False),
        ("cut", False),
        ("throttled", False),
        ("unauthorized", False),
    ],
)
def test_which_faults_make_a_job(fault: str | None, made: bool) -> None:
    """Only a gateway's code leaves it to `taken` whether the file was appended."""
    assert {FaultPlan(fault, taken, "completed", "j").makes_job for taken in (True, False)} == {made}


@pytest.mark.parametrize("fault", ["status_500", "status_502", "status_503"])
def test_a_gateway_code_says_nothing_about_the_job(fault: str) -> None:
    """Under a gateway's code the job is made or not, as `taken` was drawn."""
    assert [FaultPlan(fault, taken, "completed", "j").makes_job for taken in (True, False)] == [True, False]


def test_polls_draw_by_job_and_number() -> None:
    """A poll's fault hangs on seed, job and number alone."""
    faults = Faults(poll=PollFaults(status_500=0.3, lost_answer=0.3))
    drawn = [poll_fault(faults, "sandbox-1", number) for number in range(1, 100)]
    assert set(drawn) == {"status_500", "lost_answer", None}
    assert drawn == [poll_fault(faults, "sandbox-1", number) for number in range(1, 100)]


def test_a_list_of_known_conversations_makes_the_others_unknown() -> None:
    """An id is known unless it is listed as unknown, or a list of the known leaves it out."""
    assert Faults().knows("a")
    assert not Faults(unknown_conversations=frozenset("a")).knows("a")
    listed = Faults(known_conversations=frozenset("ab"), unknown_conversations=frozenset("b"))
    assert [listed.knows(each) for each in "abc"] == [True, False, False]


def test_a_token_is_the_same_until_it_ends() -> None:
    """The server caches: the same token with the whole seconds left, then a new one."""
    now = 0.0
    tokens = Tokens(SandboxSettings(token_seconds=10.0), lambda: now)
    first = tokens.issue()
    now = 3.5
    second = tokens.issue()
    now = 10.0
    third = tokens.issue()
    assert (first[1], second[1], third[1]) == (10, 6, 10)
    assert first[0] == second[0] != third[0]


def test_a_token_may_be_nearly_over_when_the_sandbox_begins() -> None:
    """The first token is one that somebody else has had for long; the one after it lasts as any does."""
    now = 0.0
    tokens = Tokens(SandboxSettings(token_seconds=10.0, token_left=2.0), lambda: now)
    first = tokens.issue()
    now = 2.0
    assert not tokens.accepts(f"Bearer {first[0]}")
    assert (first[1], tokens.issue()[1]) == (2, 10)


def test_a_new_secret_ends_the_token(tmp_path: Path) -> None:
    """A rotated secret ends the tokens that were issued for the old one."""
    path = tmp_path / "secret"
    path.write_text("old\n")
    tokens = Tokens(SandboxSettings(app_secret_path=path), lambda: 0.0)
    first, _ = tokens.issue()
    assert tokens.accepts(f"Bearer {first}")
    path.write_text("new\n")
    assert not tokens.accepts(f"Bearer {first}")
    second, _ = tokens.issue()
    assert first != second
    assert tokens.accepts(f"Bearer {second}")


def test_a_secret_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A sandbox without the secret that it was to have is none."""
    with pytest.raises(UsageError, match="missing"):
        Tokens(SandboxSettings(app_secret_path=tmp_path / "missing"), lambda: 0.0)


def test_a_token_that_has_ended_is_not_accepted() -> None:
    """A token opens the door up to its end, not beyond it, and no other text ever does."""
    clock = count()
    tokens = Tokens(SandboxSettings(token_seconds=3.0), lambda: float(next(clock)))
    assert not tokens.accepts("Bearer ")
    token, _ = tokens.issue()
    answers = [tokens.accepts(f"Bearer {token}") for _ in range(4)]
    assert answers[0]
    assert not answers[-1]
    assert not tokens.accepts(token)
    assert not tokens.accepts(None)


def test_jobs_are_scattered_by_what_is_asked_for() -> None:
    """The seconds per byte scatter by the share that was set; what a job takes at least does not."""
    scattered = SandboxSettings(job_seconds=1.0, job_seconds_per_mebibyte=10.0, job_scatter=0.2)
    drawn = [scatter(0, "c", f"{number:064x}") for number in range(2000)]
    paces = [(scattered.seconds_of_job(2**20, each) - 1.0) / 10.0 for each in drawn]
    assert min(paces) > 0
    assert statistics.median(paces) == pytest.approx(1.0, abs=0.02)
    assert statistics.stdev(paces) == pytest.approx(0.2, abs=0.02)
    assert {SandboxSettings().seconds_of_job(2**20, each) for each in drawn} == {2.5}


def test_a_file_of_a_conversation_always_meets_the_same_job() -> None:
    """By seed, conversation and content, whoever sends it and whenever: clients can be measured beside each other."""
    assert scatter(7, "c", "ab") == scatter(7, "c", "ab")
    assert len({scatter(*what) for what in [(7, "c", "ab"), (8, "c", "ab"), (7, "d", "ab"), (7, "c", "ac")]}) == 4
