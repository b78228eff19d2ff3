"""The bodies of the service's answers, with the documentation's texts."""

from http import HTTPStatus
from typing import Final

DOCUMENTED: Final = {
    400: "Bad Request! Please refer docs for correct input fields.",
    401: "Unauthorized. Please generate a new access token.",
    404: ("The conversation and/or it's metadata you asked could not be found, please check the input provided"),
    500: "Something went wrong! Please contact support@symbl.ai",
}

LIMIT_MESSAGE: Final = (
    "This API has a limit of maximum of {limit} number of concurrent jobs per account. "
    "If you are looking to scale, and need more concurrent jobs than this limit, "
    "please contact us at support@symbl.ai"
)


def error_body(status: int, reason: str | None = None) -> dict[str, object]:
    """Return the body of an error reply; undocumented gateway codes have their standard phrase."""
    return {"message": reason or DOCUMENTED.get(status) or HTTPStatus(status).phrase}


def limit_body(limit: int) -> dict[str, object]:
    """Return the documented "API Limit Error" with this account's number in it."""
    return {"statusCode": 429, "message": LIMIT_MESSAGE.format(limit=limit)}
