"""Builds error replies."""

from http import HTTPStatus

from aiohttp import web

from uploader.sandbox.messages import error_body, limit_body


def refusal(status: int, *, limit: int, reason: str | None = None, unread: bool = False) -> web.Response:
    """Build the error reply for `status`, with the documentation's text unless there is a `reason`.

    With its body `unread` the connection is closed.
    """
    body = limit_body(limit) if status == HTTPStatus.TOO_MANY_REQUESTS else error_body(status, reason)
    response = web.json_response(body, status=status)
    if unread:
        response.force_close()
    return response


def message(status: int, text: str) -> web.Response:
    """Build an error reply with a text of its own."""
    return web.json_response({"message": text}, status=status)


def lost_answer(request: web.BaseRequest) -> web.Response:
    """Close the connection; return a response that is never sent, with which aiohttp ends the request."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
