"""Speaks the service's HTTP and turns whatever happens into a reply."""

import uploader.certificates  # noqa: F401 - before all that imports aiohttp
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
