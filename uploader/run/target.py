"""The service to send to, and its credentials."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from uploader import secrets
from uploader.client import Credentials, CredentialsSource
from uploader.errors import CredentialsError, UsageError
from uploader.settings import FAR, Settings, settings_of


class Target(NamedTuple):
    """The base URL and credentials of the service, or of the internal sandbox."""

    base_url: str
    credentials: CredentialsSource


class CurrentCredentials:
    """The credentials as environment and files hold them now, so that a rotated secret is used."""

    @property
    def may_change(self) -> bool:
        """True where the credentials are in files."""
        try:
            return secrets.are_in_files(os.environ)
        except ValueError:
            return True  # the folder is missing now, but its files may come back

    def read(self) -> Credentials:
        """Read the credentials.

        Raises:
            CredentialsError: The credentials are gone, or a file cannot be read.
        """
        try:
            return _credentials(secrets.find(secrets.CREDENTIALS, os.environ))
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


def credentials(settings: Settings) -> CredentialsSource:
    """Check that there are credentials, and return their source.

    It reads those of environment and files for every token, and keeps those that a program has given.

    Raises:
        UsageError: The settings have no credentials.
    """
    given = {name: getattr(settings, name) for name in secrets.CREDENTIALS}
    try:
        found = _credentials({name: value.get_secret_value() for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from None
    return CurrentCredentials() if settings.rereads_credentials else found


def _credentials(found: Mapping[str, str]) -> Credentials:
    """Build the credentials; a ready token outranks the application's id and secret."""
    token, app_id, app_secret = (found.get(name) for name in ("access_token", "app_id", "app_secret"))
    if token:
        return Credentials(app_id or "", app_secret or "", token)
    if app_id and app_secret:
        return Credentials(app_id, app_secret)
    raise ValueError(_format_missing(app_id, app_secret))


def _format_missing(app_id: str | None, app_secret: str | None) -> str:
    ways = "in the environment, by a file (UPLOADER_APP_SECRET_FILE, …) or in the secrets folder"
    if app_id or app_secret:
        there, missing = ("ID", "SECRET") if app_id else ("SECRET", "ID")
        return f"no credentials: UPLOADER_APP_{there} is set and UPLOADER_APP_{missing} is missing: give it {ways}"
    return (
        f"no credentials: set UPLOADER_APP_ID and UPLOADER_APP_SECRET (or a ready UPLOADER_ACCESS_TOKEN) {ways}; to "
        "try without any, add --sandbox to a run"
    )
