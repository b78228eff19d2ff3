"""The service to send to, and its credentials."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from uploader import secrets
from uploader.client import Credentials, CredentialsSource
from uploader.errors import CredentialsError, UsageError
from uploader.settings import DEFAULT_ACCOUNT, FAR, Secret, Settings, settings_of


class Target(NamedTuple):
    """The service of an account, or the internal sandbox in its place."""

    # the account's own settings
    settings: Settings
    base_url: str
    # None: those of the settings, which are checked once the account is known to be sent to
    own_credentials: CredentialsSource | None = None

    @property
    def name(self) -> str:
        """The account's name in the ledger."""
        return self.settings.account_name

    def credentials(self) -> CredentialsSource:
        """Return the source of the account's credentials.

        Raises:
            UsageError: There are none.
        """
        return self.own_credentials or credentials(self.settings)


class Account(NamedTuple):
    """An account that a run sends to."""

    account_id: int
    # the worker of the account that this run is
    worker_id: int
    target: Target
    credentials: CredentialsSource

    @property
    def settings(self) -> Settings:
        """The account's own settings."""
        return self.target.settings


class CurrentCredentials:
    """An account's credentials as environment and files hold them now, so that a rotated secret is used.

    Args:
        account: The account's name, empty for the one above all tables.
        written: Those of the config file, which hold where the others say nothing.
    """

    def __init__(self, account: str = "", written: Mapping[str, Secret | None] = MappingProxyType({})) -> None:
        self._account = account
        self._names = secrets.of_account(account)
        self._written = written

    @property
    def may_change(self) -> bool:
        """True where the credentials are in files."""
        try:
            return secrets.are_in_files(self._names, os.environ)
        except ValueError:
            return True  # the folder is missing now, but its files may come back

    def read(self) -> Credentials:
        """Read the credentials.

        Raises:
            CredentialsError: The credentials are gone, or a file cannot be read.
        """
        try:
            found = secrets.find(self._names, os.environ)
            given = dict(zip(secrets.CREDENTIALS, map(found.get, self._names), strict=True))
            return _credentials(given if found else _texts(self._written), self._account)
        except ValueError as error:
            raise CredentialsError(str(error)) from None


def far_options(settings: Settings) -> dict[str, Any]:
    """Return the settings that delay a sandbox, for `uploader sandbox` and for the internal one of a run."""
    return {name: getattr(settings, name) for name, setting in settings_of(Settings).items() if setting.group == FAR}


def check_far(settings: Settings) -> None:
    """Refuse network delays for a run against the service, which would not be slowed down.

    Raises:
        UsageError: The run sends to the service, and has such a setting.
    """
    for name, value in far_options(settings).items():
        if value and not settings.sandbox:
            raise UsageError(f"{settings.source(name)}: {name} = {value}: only a sandbox has it: add --sandbox")


def account_settings(settings: Settings, base_url: str, account: str) -> Settings:
    """Return the settings of an account of the ledger, for requests about its items.

    Args:
        base_url: The account's base URL in the ledger.
        account: Its name in the ledger.

    Raises:
        UsageError: The settings have no such account, or one of another service: none but its own gets a secret.
    """
    if account == DEFAULT_ACCOUNT:
        return settings
    if account not in settings.accounts:
        raise UsageError(
            f"account {account} of {base_url}: the settings do not have it: name its [accounts.{account}] in a config "
            "file (--config), and set its credentials"
        )
    own = settings.of_account(account)
    if own.base_url != base_url:
        raise UsageError(
            f"account {account}: the ledger has it of {base_url}, and the settings of {own.base_url}: correct its "
            f"base_url in [accounts.{account}]"
        )
    return own


def credentials(settings: Settings) -> CredentialsSource:
    """Check that there are credentials, and return their source.

    It reads those of environment and files for every token, and keeps those that a program has given.

    Raises:
        UsageError: The settings have no credentials.
    """
    given = {name: getattr(settings, name) for name in secrets.CREDENTIALS}
    try:
        found = _credentials(_texts(given), settings.account)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not settings.rereads_credentials:
        return found
    # a config file may hold those of an account, and never the ones above all tables
    return CurrentCredentials(settings.account, given if settings.account else MappingProxyType({}))


def _texts(given: Mapping[str, Secret | None]) -> dict[str, str | None]:
    return {name: None if value is None else value.get_secret_value() for name, value in given.items()}


def _credentials(found: Mapping[str, str | None], account: str) -> Credentials:
    """Build the credentials; a ready token outranks the application's id and secret."""
    token, app_id, app_secret = (found.get(name) for name in ("access_token", "app_id", "app_secret"))
    if token:
        return Credentials(app_id or "", app_secret or "", token)
    if app_id and app_secret:
        return Credentials(app_id, app_secret)
    raise ValueError(_format_missing(app_id, app_secret, account))


def _format_missing(app_id: str | None, app_secret: str | None, account: str) -> str:
    variables = [secrets.variable(name) for name in secrets.of_account(account)]
    whose = f"account {account}: " if account else ""
    ways = f"in the environment, by a file ({variables[1]}_FILE, …) or in the secrets folder"
    if app_id or app_secret:
        there, missing = variables[:2] if app_id else variables[1::-1]
        return f"{whose}no credentials: {there} is set and {missing} is missing: give it {ways}"
    return (
        f"{whose}no credentials: set {variables[0]} and {variables[1]} (or a ready {variables[2]}) {ways}; to "
        "try without any, add --sandbox to a run"
    )
