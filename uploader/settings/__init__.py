"""All settings, each checked once, with its unit in its name."""

from uploader.settings.addresses import DOCUMENTED_BASE_URL, POSTGRESQL, default_ledger, host_and_port
from uploader.settings.checks import Secret, unless_auto
from uploader.settings.fields import ENVIRONMENT_PREFIX, FAR, SECRETS, Settings
from uploader.settings.tables import DEFAULT_ACCOUNT, Setting, settings_of
from uploader.urls import is_loopback

__all__ = [
    "DEFAULT_ACCOUNT",
    "DOCUMENTED_BASE_URL",
    "ENVIRONMENT_PREFIX",
    "FAR",
    "POSTGRESQL",
    "SECRETS",
    "Secret",
    "Setting",
    "Settings",
    "default_ledger",
    "host_and_port",
    "is_loopback",
    "settings_of",
    "unless_auto",
]
