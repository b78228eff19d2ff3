"""Reads objects of cloud stores (``s3://``, ``gs://``, ``az://``) by obstore."""

import os
import re
from collections.abc import AsyncIterator, Mapping
from configparser import ConfigParser, Error
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions, store

from uploader.audio.remote import (
    CONNECT_SECONDS,
    READ_SECONDS,
    STREAM_BYTES,
    Beginning,
    RemoteError,
    Stream,
    Trouble,
    change_of,
    strong_etag,
)
from uploader.urls import StoredObject, is_loopback, stored_object

# a missing object is a FileNotFoundError, a key that cannot be a ValueError
_ERRORS = (exceptions.BaseError, OSError, ValueError)
_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*)")
_UNSATISFIABLE = "HTTP 416"
# a store's answer to a request with no, unknown or expired credentials, beside 401 and 403
_BAD_CREDENTIALS = re.compile("ExpiredToken|InvalidToken|InvalidAccessKeyId|SignatureDoesNotMatch|AuthorizationHeader")
# statuses of a client error that may be none later
_LATER = ("HTTP 408", "HTTP 425", "HTTP 429")
_KINDS: tuple[tuple[Any, Trouble], ...] = (
    (FileNotFoundError, Trouble.MISSING),
    (exceptions.PreconditionError, Trouble.CHANGED),
    ((exceptions.PermissionDeniedError, exceptions.UnauthenticatedError), Trouble.DENIED),
)
_WITHOUT_STATUS = {Trouble.MISSING: "no such object", Trouble.DENIED: "the store does not take the credentials"}
_NO_STORE = "no connection to the store"
# requests that are none for an object: for a token, or to a cloud's server of credentials
_TOKEN = re.compile("Error performing P|meta-?data/|computeMetadata|oauth2|latest/api/token")
# what stands in the text of an error that came without an answer, and its meaning
_SIGNS = (
    (re.compile("[Cc]ertificate|UnknownIssuer"), "the store's certificate is not trusted"),
    (re.compile("without LOCATION"), "the bucket is in another region: set AWS_REGION"),
    (re.compile("ncomplete|decoding response body"), "the connection was cut"),
    (re.compile("imed out|TimedOut"), "the store does not answer in time"),
)
_OPTIONS = {"timeout": "7days", "connect_timeout": f"{CONNECT_SECONDS:g}s", "read_timeout": f"{READ_SECONDS:g}s"}
# environment variables that name CA certificates beside SSL_CERT_FILE, which obstore reads itself
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# environment variables that name another server than the cloud's own
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


class Objects:
    """The client of cloud stores, which finds credentials as the clouds' own tools do."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Any] = {}

    async def begin(self, address: str, count: int) -> Beginning:
        """Read an object's facts and first bytes, in one round trip."""
        bucket, key = self._place(address)
        try:
            found = await obstore.get_async(bucket, key, options={"range": (0, count)})
            content = bytes(await found.bytes_async())
        except _ERRORS as error:
            if _status(error).startswith(_UNSATISFIABLE):  # nothing is there of which a part could be asked for
                raise RemoteError(Trouble.EMPTY) from None
            raise _translated(error) from None
        return Beginning(int(found.meta["size"]), _change(found.meta), content)

    async def read(self, address: str, start: int, end: int, change: str) -> bytes:
        """Read a part of an object, of this version."""
        bucket, key = self._place(address)
        try:
            found = await obstore.get_async(bucket, key, options=_guard(change, range=(start, end)))
            return bytes(await found.bytes_async())
        except _ERRORS as error:
            raise _translated(error) from None

    @asynccontextmanager
    async def stream(self, address: str, change: str) -> AsyncIterator[Stream]:
        """Open an object to be read from its beginning."""
        bucket, key = self._place(address)
        try:
            found = await obstore.get_async(bucket, key, options=_guard(change))
        except _ERRORS as error:
            raise _translated(error) from None
        size: int = found.meta["size"]
        yield Stream(size, _change(found.meta), _pieces(found, size))

    async def close(self) -> None:
        """Forget the stores; their connections close by themselves."""
        self._stores.clear()

    def _place(self, address: str) -> tuple[Any, str]:
        place = stored_object(address)
        if place is None:
            raise RemoteError(Trouble.UNUSABLE, "this is no object of a store")
        which = place[:2]
        if which not in self._stores:
            self._stores[which] = _store(place)
        return self._stores[which], place.key


def _store(place: StoredObject) -> Any:
    """Make the client of a bucket, which repeats nothing by itself: it would resume a stream that was cut."""
    endpoint = next((os.environ[name] for name in _ENDPOINTS[place.scheme] if os.environ.get(name)), "")
    options: dict[str, Any] = dict(_OPTIONS)
    if endpoint.startswith("http:") and is_loopback(urlsplit(endpoint).hostname or ""):
        options["allow_http"] = True
    makers: Mapping[str, Any] = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
    variables = (*_BUNDLES, "AWS_CA_BUNDLE") if place.scheme == "s3" else _BUNDLES
    named = [(name, os.environ[name]) for name in variables if os.environ.get(name)]
    # a folder of certificates is for OpenSSL alone
    bundles = [_certificates(name, path) for name, path in named if not Path(path).is_dir()]
    if bundles:
        options["root_certificate"] = b"\n".join(bundles)
    own = aws_profile(os.environ) if place.scheme == "s3" else {}
    try:
        return makers[place.scheme](place.bucket, client_options=options, retry_config={"max_retries": 0}, **own)
    except _ERRORS as error:
        raise RemoteError(
            Trouble.UNUSABLE, f"the settings of {place.scheme}:// are not whole: {_setting(error)}"
        ) from None


def _certificates(variable: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RemoteError(Trouble.UNUSABLE, f"{variable}: its certificates cannot be read: {error.strerror}") from None


def aws_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """Read keys and region of the chosen profile from AWS's shared files, where the environment has none.

    Args:
        environment: The variables: ``AWS_PROFILE``, and those that name the files.

    Returns:
        Arguments of ``S3Store``; empty for a profile whose keys are to be had in another way, which obstore asks.
    """
    name = environment.get("AWS_PROFILE") or "default"
    folder = Path(environment.get("HOME") or "/nonexistent") / ".aws"
    credentials, config = (
        _section(environment.get(variable) or folder / file, section)
        for variable, file, section in (
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
            ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        )
    )
    found = {}
    if not (environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")):
        region = config.get("region") or credentials.get("region")
        found = {"region": region} if region else {}
    if environment.get("AWS_ACCESS_KEY_ID"):
        return found
    keys = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
    own = config | credentials
    if all(own.get(key) for key in keys):
        found |= {argument: own[key] for key, argument in keys.items()}
        if own.get("aws_session_token"):
            found["session_token"] = own["aws_session_token"]
    return found


def _section(path: str | Path, name: str) -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return {}  # its own words would show what stands in it
    return dict(parser[name]) if parser.has_section(name) else {}


def _guard(change: str, **options: Any) -> Any:
    etag = strong_etag(change)
    return options if etag is None else {**options, "if_match": etag}


def _change(meta: Mapping[str, Any]) -> str:
    return change_of(meta.get("e_tag"), meta["last_modified"].isoformat())


async def _pieces(found: Any, size: int) -> AsyncIterator[bytes]:
    read = 0
    try:
        async for piece in found.stream(min_chunk_size=STREAM_BYTES):
            read += len(piece)
            yield piece
    except _ERRORS as error:
        raise _translated(error) from None
    if read < size:
        raise RemoteError(Trouble.AWAY, f"it ended after {read} of {size} bytes")


def _status(error: Exception) -> str:
    found = _STATUS.search(str(error))
    return "" if found is None else f"HTTP {found[1]} {found[2]}".strip()


def _setting(error: Exception) -> str:
    """Return the name of what a store lacks, without any value: its first line."""
    said = str(error).split("\n", maxsplit=1)[0]
    return re.sub(r"https?://\S+", "…", said)[:200]


def _translated(error: Exception) -> RemoteError:
    """Translate obstore's errors without their texts, in which addresses and signatures stand."""
    said, status = str(error), _status(error)
    if _TOKEN.search(said):
        return RemoteError(Trouble.AWAY, "no credentials were found, or they could not be had")
    known = next((trouble for kind, trouble in _KINDS if isinstance(error, kind)), None)
    if known is None and _BAD_CREDENTIALS.search(said):
        known = Trouble.DENIED
    if known is None and status.startswith("HTTP 4") and not status.startswith(_LATER):
        known = Trouble.UNUSABLE
    if known is not None:
        return RemoteError(known, status or _WITHOUT_STATUS.get(known, ""))
    return RemoteError(Trouble.AWAY, status or next((words for sign, words in _SIGNS if sign.search(said)), _NO_STORE))
