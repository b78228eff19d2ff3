"""``pytest tests/simulation --schedules N --seed S`` lives through N schedules, from seed S on."""

import pytest

DEFAULT_SCHEDULES = 1000


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many schedules, and from which seed."""
    parser.addoption("--schedules", type=int, default=DEFAULT_SCHEDULES, help="schedules to live through")
    parser.addoption("--seed", type=int, default=0, help="the first schedule's seed")
