"""Notifications over TCP: taken, tried again, given up; and the address is never shown."""

import json
from collections.abc import Callable

import pytest

from tests.integration.servers import (
    Exchange,
    Script,
    Server,
    always,
    clean_environment,  # noqa: F401 - a fixture
    free_port,
    hung_up_after_body,
    in_turn,
)
from uploader.notify import notify
from uploader.settings import Secret

SECRET = "T0000-the-secret-of-the-hook"
PAYLOAD = {"text": "uploader: 1 item needs a person", "event": "ended", "exitCode": 4}


def address(server: Server) -> Secret:
    """Return the address of a hook on a server."""
    return Secret(f"{server.base_url}/hooks/{SECRET}?room=night%2F1")


async def test_a_notification_is_one_post_of_json() -> None:
    """The address and the object arrive as they were given."""
    async with Server(token=always(200)) as server:
        assert await notify(address(server), PAYLOAD)
        (request,) = server.requests
        assert request.line == f"POST /hooks/{SECRET}?room=night%2F1 HTTP/1.1"
        assert json.loads(request.body) == PAYLOAD
        assert request.all("content-type") == ["application/json"]


@pytest.mark.parametrize("first", [always(503), always(429, Retry_After="0"), hung_up_after_body])
async def test_what_may_pass_is_tried_again(first: Script) -> None:
    """A receiver that is busy, or hangs up, gets the same once more."""
    async with Server(token=in_turn(first, always(200))) as server:
        assert await notify(address(server), PAYLOAD, 30)
        assert [json.loads(request.body) for request in server.requests] == [PAYLOAD, PAYLOAD]


async def never(exchange: Exchange) -> None:
    """Read the body and never answer."""
    await exchange.read_body()
    await exchange.until_left()


FAILURES: dict[str, tuple[Callable[[], Script], int | None]] = {
    "HTTP 404": (lambda: always(404), 1),
    "HTTP 302": (lambda: always(302, Location="http://127.0.0.1:9/elsewhere"), 1),
    "HTTP 500": (lambda: always(500), None),
    "no answer within 0.3 s": (lambda: never, 1),
}


@pytest.mark.parametrize("reason", FAILURES)
async def test_a_failure_is_logged_and_nothing_more(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No exception; no redirect is followed, and no refusal tried again; the log has the reason and not the address."""
    script, requests = FAILURES[reason]
    async with Server(token=script()) as server:
        assert not await notify(address(server), PAYLOAD, 0.3)
        assert requests in (None, len(server.requests))
    logged = "".join(capsys.readouterr())
    assert "notify.failed" in logged
    assert reason in logged
    assert SECRET not in logged


async def test_a_receiver_that_is_gone_is_no_failure_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens at the address."""
    assert not await notify(Secret(f"http://127.0.0.1:{free_port()}/{SECRET}"), PAYLOAD, 0.3)
    logged = "".join(capsys.readouterr())
    assert "Connection refused" in logged
    assert SECRET not in logged
