"""Checks the head of a PUT against the specification."""

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from uploader.sandbox import parameters, request_target

MEDIA_TYPES: Final = ("audio/wav", "audio/wave", "audio/mpeg", "audio/mp3")
# from put-audio.md, Request Headers
DEPRECATED_HEADERS: Final = ("x-api-key",)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The checked head of a PUT."""

    # the query's parameters in their own types; empty where they cannot be read
    parameters: dict[str, Any] = field(default_factory=dict)
    # the fault of the request and its remedy
    fault: str | None = None


def judge(request: web.BaseRequest, allowed: frozenset[str]) -> RequestHead:
    """Check a head against the specification; `allowed` are further query parameters."""
    try:
        _check_length(request)
        _check_media_type(request)
        request_target.check(request.raw_path)
        return RequestHead(parameters.read(request_target.query(request.raw_path), allowed))
    except ValueError as error:
        return RequestHead(fault=str(error))


def deprecated(request: web.BaseRequest) -> tuple[str, ...]:
    """List the names of a request's deprecated headers; some of their values are secret."""
    return tuple(name for name in DEPRECATED_HEADERS if name in request.headers)


def credentials(request: web.BaseRequest) -> str | None:
    """Return the `Authorization` of a PUT, or a bearer's made of the deprecated `x-api-key`."""
    key = request.headers.get("x-api-key")
    return request.headers.get("Authorization", None if key is None else f"Bearer {key}")


def _check_length(request: web.BaseRequest) -> None:
    if request.content_length is None:
        raise ValueError("there is no Content-Length: state the body's length in bytes, and never send it in chunks")
    if request.content_length == 0:
        raise ValueError("the body is empty (Content-Length: 0): send an audio file")


def _check_media_type(request: web.BaseRequest) -> None:
    # The header itself: aiohttp's own `content_type` invents one where none was sent.
    for header in request.headers.getall("Content-Type", []):
        kind = header.partition(";")[0].strip().lower()
        if kind not in MEDIA_TYPES:
            accepted = ", ".join(MEDIA_TYPES)
            raise ValueError(
                f"Detected MIME Type as '{kind}'. Accepted are {accepted}: leave the header out for other formats"
            )
