"""Whom to send to, and with what credentials."""

from uploader.client import Credentials
from uploader.errors import UsageError
from uploader.settings import Settings


def credentials(settings: Settings) -> Credentials:
    """The credentials of the settings.

    Raises:
        UsageError: There are none.
    """
    if settings.access_token is not None:
        return Credentials(access_token=settings.access_token.get_secret_value())
    if settings.app_id is None or settings.app_secret is None:
        raise UsageError(
            "no credentials: set UPLOADER_APP_ID and UPLOADER_APP_SECRET (or a ready UPLOADER_ACCESS_TOKEN); to try "
            "without any, add --sandbox to a run"
        )
    return Credentials(settings.app_id.get_secret_value(), settings.app_secret.get_secret_value())
