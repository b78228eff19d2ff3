"""Speaks the service's HTTP and turns whatever happens into a reply."""

from uploader.client.expectation import Expect
from uploader.client.service import Client, JobAnswer
from uploader.client.token import Credentials, CredentialsSource
from uploader.client.upload import Admission
from uploader.client.upload_client import TimeLimits, UploadRequest

__all__ = [
    "Admission",
    "Client",
    "Credentials",
    "CredentialsSource",
    "Expect",
    "JobAnswer",
    "TimeLimits",
    "UploadRequest",
]
