"""``pytest tests/simulation --schedules N --seed S`` lives through N schedules, from seed S on."""

import pytest

# test_breaks.py: each safeguard that is taken away is noticed within fewer
SCHEDULES, NIGHTLY_SCHEDULES = 60, 10_000
# so many schedules are one test: what the processes of a test run share out among them
PER_TEST = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the number of schedules and the first seed."""
    told = f"schedules to live through ({SCHEDULES}, nightly {NIGHTLY_SCHEDULES})"
    parser.addoption("--schedules", type=int, help=told)
    parser.addoption("--seed", type=int, default=0, help="the first schedule's seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Share the schedules out among tests."""
    if "seeds" in metafunc.fixturenames:
        nightly = metafunc.config.getoption("--nightly")
        count = metafunc.config.getoption("--schedules") or (NIGHTLY_SCHEDULES if nightly else SCHEDULES)
        first = metafunc.config.getoption("--seed")
        drawn = range(first, first + count)
        parts = [drawn[start : start + PER_TEST] for start in range(0, count, PER_TEST)]
        metafunc.parametrize("seeds", parts, ids=lambda part: f"{part[0]}-{part[-1]}")
