"""The webhook's tokens and addresses, and the bodies of callbacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import JobStatus
from uploader.policy.callbacks import SILENT_JOBS, address_of, is_webhook_silent, read_callback, token_hash


@pytest.mark.parametrize(
    ("ended", "callbacks", "silent"),
    [(0, 0, False), (SILENT_JOBS - 1, 0, False), (SILENT_JOBS, 0, True), (1000, 0, True), (1000, 1, False)],
)
def test_when_the_webhook_is_silent(ended: int, callbacks: int, silent: bool) -> None:
    """So many jobs that were to call have ended, and none has: a single call shows that the way is open."""
    assert is_webhook_silent(ended, callbacks) is silent


BODIES = [
    ({"jobId": "j", "status": "in_progress"}, ("j", JobStatus.IN_PROGRESS)),
    ({"id": "j", "status": "completed"}, ("j", JobStatus.COMPLETED)),
    ({"jobId": None, "id": "j", "status": "failed"}, ("j", JobStatus.FAILED)),
    ({"jobId": 7, "status": "scheduled"}, ("7", JobStatus.SCHEDULED)),
    ({"jobId": "j", "id": "other", "status": "scheduled", "more": 1}, ("j", JobStatus.SCHEDULED)),
    ({"jobId": "j", "status": "paused"}, ("j", None)),
    ({"jobId": "j"}, None),
    ({"jobId": "j", "status": 3}, None),
    ({"status": "completed"}, None),
    ({"jobId": "", "status": "completed"}, None),
    ({"jobId": True, "status": "completed"}, None),
    ({"jobId": ["j"], "status": "completed"}, None),
    ({"jobId": "j\x1b", "status": " COMPLETED\n"}, ("j\x1b", JobStatus.COMPLETED)),
    ({"jobId": "j" * 1001, "status": "completed"}, None),
    ([], None),
    ("completed", None),
    (None, None),
]


@pytest.mark.parametrize(("body", "read"), BODIES)
def test_both_names_of_the_job_are_read_and_nothing_else(
    body: object, read: tuple[str, JobStatus | None] | None
) -> None:
    """`jobId`, or `id` in its place, and one of the four statuses; another status says nothing, and is no error."""
    assert read_callback(body) == read


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://hook.example", "https://hook.example/TOKEN"),
        ("https://hook.example/", "https://hook.example/TOKEN"),
        ("https://hook.example:8443/calls/", "https://hook.example:8443/calls/TOKEN"),
        ("http://127.0.0.1:8080/a?of=night&x=1", "http://127.0.0.1:8080/a/TOKEN?of=night&x=1"),
    ],
)
def test_the_token_is_the_last_segment_of_the_path(url: str, address: str) -> None:
    """Whatever the listener's public address is, the token stands where the listener looks for it."""
    assert address_of(url, "TOKEN") == address


@given(st.text(), st.text())
def test_a_token_is_not_told_by_its_hash(one: str, other: str) -> None:
    """The ledger keeps what a token can be known by again, and not the token."""
    assert (token_hash(one) == token_hash(other)) == (one == other)
    assert len(one) < 8 or one not in token_hash(one)
