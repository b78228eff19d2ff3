"""``pytest tests/simulation --schedules N --seed S`` lives through N schedules, from seed S on."""

import logging
from collections.abc import Iterator

import pytest
import structlog

# test_breaks.py: each safeguard that is taken away is noticed within fewer
SCHEDULES, NIGHTLY_SCHEDULES = 30, 10_000
# the same of several workers on one ledger
SCHEDULES_OF_SEVERAL, NIGHTLY_SCHEDULES_OF_SEVERAL = 10, 5000
# so many schedules are one test: what the processes of a test run share out among them
PER_TEST = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the number of schedules and the first seed."""
    told = f"schedules to live through ({SCHEDULES}, nightly {NIGHTLY_SCHEDULES})"
    parser.addoption("--schedules", type=int, help=told)
    parser.addoption("--seed", type=int, default=0, help="the first schedule's seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Share the schedules out among tests."""
    _share_out(metafunc, "seeds", SCHEDULES, NIGHTLY_SCHEDULES)
    _share_out(metafunc, "seeds_of_several", SCHEDULES_OF_SEVERAL, NIGHTLY_SCHEDULES_OF_SEVERAL)


def _share_out(metafunc: pytest.Metafunc, name: str, default: int, nightly: int) -> None:
    if name in metafunc.fixturenames:
        option = metafunc.config.getoption
        count = option("--schedules") or (nightly if option("--nightly") else default)
        first = option("--seed")
        drawn = range(first, first + count)
        parts = [drawn[start : start + PER_TEST] for start in range(0, count, PER_TEST)]
        metafunc.parametrize(name, parts, ids=lambda part: f"{part[0]}-{part[-1]}")


@pytest.fixture
def no_log() -> Iterator[None]:
    """Silence the log of long nights, and restore it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
