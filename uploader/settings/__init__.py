"""Every setting once, checked, with its unit in its name."""

from uploader.settings.addresses import DOCUMENTED_BASE_URL, default_ledger, host_and_port, is_loopback
from uploader.settings.fields import ENVIRONMENT_PREFIX, SECRETS, Settings
from uploader.settings.loading import load, unknown_environment

__all__ = [
    "DOCUMENTED_BASE_URL",
    "ENVIRONMENT_PREFIX",
    "SECRETS",
    "Settings",
    "default_ledger",
    "host_and_port",
    "is_loopback",
    "load",
    "unknown_environment",
]
