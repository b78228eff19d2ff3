"""How many processes run the tests, and how they start commands."""

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option for the tests that start commands."""
    parser.addoption(
        "--real-start", action="store_true", help="start every command as a new interpreter, none as a warm one's fork"
    )


@pytest.hookimpl(optionalhook=True)  # one may run them without the plugin
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests of the real command wait for its jobs much of their time."""
    del config
    return (os.cpu_count() or 1) + 1
