"""Judges the head of a PUT: what it asks for, or why it is refused."""

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from uploader.sandbox import parameters, target

MEDIA_TYPES: Final = ("audio/wav", "audio/wave", "audio/mpeg", "audio/mp3")
DEPRECATED_HEADERS: Final = ("x-api-key",)
"""By put-audio.md, Request Headers."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a PUT says."""

    parameters: dict[str, Any] = field(default_factory=dict)
    """The query's, in their own types; empty where they cannot be read."""
    fault: str | None = None
    """What is wrong with the request, and how to mend it."""


def judge(request: web.BaseRequest, allowed: frozenset[str]) -> Head:
    """Holds a head against the specification; `allowed` are query parameters that it need not know."""
    try:
        _check_length(request)
        _check_media_type(request)
        target.check(request.raw_path)
        return Head(parameters.read(target.query(request.raw_path), allowed))
    except ValueError as error:
        return Head(fault=str(error))


def deprecated(request: web.BaseRequest) -> tuple[str, ...]:
    """The deprecated headers that a request carries: their names, for some of their values are secret."""
    return tuple(name for name in DEPRECATED_HEADERS if name in request.headers)


def credentials(request: web.BaseRequest) -> str | None:
    """The `Authorization` of a PUT; without one the deprecated `x-api-key` stands for a bearer's token."""
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
