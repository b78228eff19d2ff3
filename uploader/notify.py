"""Posts a notification: at the end of a run, and when something first needs a person."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL

from uploader import logs
from uploader.certificates import ssl_context
from uploader.client.connection import ServiceConnector, format_error, proxy_for
from uploader.errors import UploaderError
from uploader.policy.backoff import Backoff, after_failure
from uploader.settings import Secret

log = logs.get_logger()

# the longest time that a notification may take, its retries included
NOTIFY_SECONDS = 8.0
# the same after a signal, when the process may be killed soon
HURRIED_SECONDS = 2.0
BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 3.0


async def notify(url: Secret, payload: Mapping[str, Any], seconds: float = NOTIFY_SECONDS) -> bool:
    """Post a JSON object; retry what may pass, and log a failure.

    Args:
        url: The address, which is never shown: it may have a secret in it.
        payload: The object; its ``text`` is shown by chat services.
        seconds: The time limit of all tries together.

    Returns:
        True once the receiver has taken it.
    """
    address = url.get_secret_value()
    parts = urlsplit(address)
    base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
    reason = f"no answer within {seconds:g} s"
    try:
        async with asyncio.timeout(seconds):
            proxy = proxy_for(base)
            async with aiohttp.ClientSession(connector=ServiceConnector(ssl=ssl_context(base))) as session:
                backoff = Backoff()
                while True:
                    status, reason, retry_after = await _post(session, address, payload, proxy)
                    if not reason:
                        return True
                    if status is not None and status < 500 and status not in (408, 425, 429):
                        break
                    now = time.time()
                    backoff = after_failure(
                        backoff,
                        now,
                        base=BACKOFF_BASE_SECONDS,
                        cap=BACKOFF_CAP_SECONDS,
                        jitter=random.random(),  # noqa: S311 - jitter, no secret
                        retry_after=retry_after,
                    )
                    await asyncio.sleep(backoff.until - now)
    except TimeoutError:
        pass  # the reason is that of the latest try
    except UploaderError as error:
        reason = str(error)
    log.error("notify.failed", reason=reason)
    return False


async def _post(
    session: aiohttp.ClientSession, address: str, payload: Mapping[str, Any], proxy: Mapping[str, Any]
) -> tuple[int | None, str, str | None]:
    """Post once; return the status, the reason of a failure, and the Retry-After header."""
    try:
        async with session.post(
            URL(address, encoded=address.isascii()), json=payload, allow_redirects=False, **proxy
        ) as response:
            reason = "" if response.status < 300 else f"HTTP {response.status}"
            return response.status, reason, response.headers.get("Retry-After")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return None, format_error(error), None
