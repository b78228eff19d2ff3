"""Builds the replies that are no success."""

from http import HTTPStatus

from aiohttp import web

from uploader.sandbox.words import error_body, limit_body


def refusal(status: int, *, limit: int, reason: str | None = None, unread: bool = False) -> web.Response:
    """The error reply for `status`, in the documentation's words unless there is a `reason` of its own.

    With its body `unread` the connection is of no more use.
    """
    body = limit_body(limit) if status == HTTPStatus.TOO_MANY_REQUESTS else error_body(status, reason)
    response = web.json_response(body, status=status)
    if unread:
        response.force_close()
    return response


def message(status: int, text: str) -> web.Response:
    """An error reply in words of our own."""
    return web.json_response({"message": text}, status=status)


def lost_answer(request: web.BaseRequest) -> web.Response:
    """Closes the connection; what is returned reaches nobody, and lets aiohttp end the request in peace."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
