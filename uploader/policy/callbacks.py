"""Decides where the service is to call, and reads what it says there."""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from uploader.model import JobStatus
from uploader.policy.replies import id_in

MAX_JOB_ID_CHARACTERS = 1000
# so many jobs that were to call, and ended without a single callback, are no chance
SILENT_JOBS = 10
SIGNATURE_BYTES = 12
SIGNATURE_CHARACTERS = 16


def is_webhook_silent(ended: int, callbacks: int) -> bool:
    """Return True where the listener seems out of the service's reach.

    Args:
        ended: The number of jobs that were given its address and whose end was seen by polling.
        callbacks: The number of callbacks with a token of ours in this run.
    """
    return not callbacks and ended >= SILENT_JOBS


def read_callback(body: Any) -> tuple[str, JobStatus | None] | None:
    """Read a callback's JSON: the jobId, under either name, and the status; None for any other JSON.

    A status that is not documented is None.
    """
    if not isinstance(body, Mapping):
        return None
    job_id = id_in(body.get("id") if body.get("jobId") is None else body["jobId"])
    if job_id is None or len(job_id) > MAX_JOB_ID_CHARACTERS or not isinstance(body.get("status"), str):
        return None
    return job_id, JobStatus.read(body["status"])


def address_of(webhook_url: str, token: str) -> str:
    """Return the address for the callbacks of one attempt: the token is the last segment of its path."""
    parts = urlsplit(webhook_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{token}"))


def signed_token(secret: str, key: str) -> str:
    """Sign a token, so that a guess is rejected without a look into the ledger.

    Args:
        secret: A random secret.
        key: The ledger's key: its reader can make tokens, but none that the ledger knows.
    """
    return secret + _signature(secret, key)


def is_signed(token: str, key: str) -> bool:
    """Return True where a token is signed with this key."""
    secret, signature = token[:-SIGNATURE_CHARACTERS], token[-SIGNATURE_CHARACTERS:]
    return hmac.compare_digest(_encoded(signature), _signature(secret, key).encode())


def token_hash(token: str) -> str:
    """Hash a token for the ledger, whose reader cannot end a job by it."""
    return sha256(token.encode()).hexdigest()


def _signature(secret: str, key: str) -> str:
    digest = hmac.digest(key.encode(), _encoded(secret), "sha256")
    return urlsafe_b64encode(digest[:SIGNATURE_BYTES]).decode()


def _encoded(text: str) -> bytes:
    # a path of an unknown caller may not be UTF-8
    return text.encode(errors="surrogatepass")
