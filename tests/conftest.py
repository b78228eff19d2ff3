"""How many processes run the tests."""

import os

import pytest


@pytest.hookimpl(optionalhook=True)  # one may run them without the plugin
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests of the real command wait for its jobs much of their time."""
    del config
    return (os.cpu_count() or 1) + 1
