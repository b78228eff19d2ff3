"""Addresses of remote audio: recognised, checked, and shown without their secrets."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

WEB = ("https", "http")
STORES = ("s3", "gs", "az")
_SCHEME = re.compile(rf"({'|'.join((*STORES, *WEB))})://", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")


def is_loopback(host: str) -> bool:
    """Return True where a host name or address is this machine."""
    if host == "localhost":
        return True
    import ipaddress  # noqa: PLC0415 - --help has no use for it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# the parameters beside a signature, by its name: of CloudFront, and S3's and Google's older ones; of Azure
_SIGNED = {
    "signature": frozenset(
        ["signature", "expires", "policy", "key-pair-id", "hash-algorithm", "awsaccesskeyid", "googleaccessid"]
    ),
    "sig": frozenset(
        "sig sv sr sp st se spr sip ss srt skoid sktid skt ske sks skv sdd saoid suoid scid".split()  # noqa: SIM905
    ),
}


class StoredObject(NamedTuple):
    """The place of an object in a cloud's store."""

    # ``s3``, ``gs`` or ``az``
    scheme: str
    bucket: str
    key: str


def is_remote(path: str) -> bool:
    """Return True where an ``audioPath`` names remote audio, not a file of this machine."""
    return _SCHEME.match(path) is not None


def shown(path: str) -> str:
    """Return an ``audioPath`` as it may be shown: an address without login, query and fragment, which may be secret."""
    if not is_remote(path):
        return path
    scheme, _, rest = path.partition("://")
    place = re.split("[?#]", rest, maxsplit=1)
    authority, slash, inner = place[0].partition("/")
    login = "…@" if "@" in authority else ""
    return f"{scheme}://{login}{authority.rpartition('@')[2]}{slash}{inner}" + ("?…" if len(place) > 1 else "")


def server_of(address: str) -> str:
    """Return the part of an address that names its server, or its bucket."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}".lower()


def without_signature(path: str) -> str:
    """Return an address without the parameters that clouds sign it with, which never choose its content.

    It is the same for an address that is signed anew; a path of this machine, and any other query, is left as it is.
    """
    if "?" not in path or not is_remote(path):
        return path
    place, _, query = path.partition("?")
    parts = [(part.partition("=")[0].lower(), part) for part in query.split("&")]
    signed = _SIGNED.get(next((name for name, _ in parts if name in _SIGNED), ""), frozenset())
    kept = [part for name, part in parts if not name.startswith(("x-amz-", "x-goog-")) and name not in signed]
    return "?".join([place, *filter(None, ["&".join(kept)])])


def stored_object(address: str) -> StoredObject | None:
    """Split the address of an object in a cloud's store, whose key is written as it is; None for a web address.

    Raises:
        ValueError: The address is not of this form; the text says why, and gives the remedy.
    """
    scheme, _, rest = address.partition("://")
    if scheme.lower() in WEB:
        return None
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or not key:
        raise ValueError(f"this address names no object: write {scheme.lower()}://BUCKET/KEY")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("a part of the key between slashes is empty, . or ..: such objects cannot be read: copy it")
    return StoredObject(scheme.lower(), bucket, key)


def check(address: str) -> None:
    """Check the form of an address.

    Raises:
        ValueError: Nothing can be read from it; the text says why, and gives the remedy.
    """
    if stored_object(address) is not None:
        return
    try:
        parts = urlsplit(address)
        host = parts.hostname if parts.port != 0 and address.isprintable() and " " not in address else None
    except ValueError:
        parts, host = urlsplit(""), None
    if not host:
        raise ValueError("this is no address: write https://HOST/PATH, with blanks and other such characters encoded")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a login stands in the address: leave it out, and write it into ~/.netrc")
    if parts.fragment:
        raise ValueError("a fragment (#…) stands in the address: write # as %23, or leave the fragment out")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("http would show the recording to the network: write https://")
