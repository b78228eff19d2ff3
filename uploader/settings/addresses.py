"""Checks of addresses, times of day and the CSV delimiter."""

import re
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from uploader.secrets import without_login
from uploader.urls import is_loopback

# how the address of a ledger on a PostgreSQL server begins
POSTGRESQL = "postgresql://"
# the service's base URL (put-audio.md, API Endpoint)
DOCUMENTED_BASE_URL = "https://api.symbl.ai"
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[a-z0-9._-]+")


def service_address(value: str) -> str:
    """Normalise a base URL: https, or http on this machine, with host and path alone."""
    parts = _parts(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("write the service's address as https://HOST or https://HOST:PORT")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("write the address alone: no user, password, query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("http would show token and audio to the network: write https://")
    default_port = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else _ascii_host(parts.hostname)
    port = f":{parts.port}" if parts.port not in (None, default_port) else ""
    # one form for every spelling; encoded characters stay encoded
    path = quote(_LONE_PERCENT.sub("%25", parts.path.rstrip("/")), safe="/%:@!$&'()*+,;=~")
    return urlunsplit((parts.scheme, host + port, path, "", ""))


def _ascii_host(host: str) -> str:
    """Encode a host name for the wire: letters beyond ASCII in IDNA."""
    try:
        # import the codec only where it is needed
        found = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        found = ""
    if not _HOST.fullmatch(found):
        raise ValueError("this is no host's name: write the service's address as https://HOST or https://HOST:PORT")
    return found


def _parts(address: str) -> SplitResult | None:
    """Split an address; None where it is none or its port is no port number."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - it is looked at when it is asked for
    except ValueError:
        return None
    return parts


def listening_address(value: str) -> str:
    """Check an address to listen on, HOST:PORT."""
    host_and_port(value)
    return value


def host_and_port(value: str) -> tuple[str, int]:
    """Split an address to listen on into host and port; an IPv6 address stands in brackets."""
    parts = _parts(f"//{value}")
    is_more = parts is not None and (parts.path or parts.query or parts.fragment or "@" in value)
    if parts is None or not parts.hostname or not parts.port or is_more:
        raise ValueError("write where to listen as HOST:PORT, 0.0.0.0:8080 say")
    return parts.hostname, parts.port


def public_address(value: str) -> str:
    """Check the public URL of a listener."""
    parts = _parts(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("write the listener's public address as https://HOST/PATH")
    if not value.isprintable() or " " in value:
        raise ValueError("write the listener's public address as https://HOST/PATH")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("write the address alone: no user, password or fragment")
    return value


def notified_address(value: str) -> str:
    """Check the address that is notified: https, or http on this machine. No message shows it."""
    parts = _parts(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or " " in value:
        raise ValueError("write the address to notify as https://HOST/PATH")
    if not value.isprintable() or parts.fragment:
        raise ValueError("write the address to notify as https://HOST/PATH, without #")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("http would show the summary, and what is secret in the address, to the network: use https://")
    return value


class LedgerAddress(str):
    """A ledger's URL; its repr hides user and password."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the URL without its login."""
        return repr(without_login(str(self)))


def ledger_address(value: str) -> str:
    """Check a ledger's URL."""
    if value.startswith(POSTGRESQL) and len(value) > len(POSTGRESQL):
        return LedgerAddress(value)
    if not value.startswith("sqlite:////") or value.endswith("/"):
        raise ValueError(
            "write it as sqlite:////absolute/path/ledger.db, with four slashes and no relative path, or as "
            "postgresql://HOST/DATABASE"
        )
    if "?" in value or "#" in value:
        raise ValueError("it has a query or a fragment, which a ledger has not: write the path alone")
    return value


def time_of_day(value: str) -> str:
    """Normalise a time of day to HH:MM; the hour may have one digit."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value)
    if found is None:
        raise ValueError("write it as HH:MM, 06:00 say")
    return f"{int(found[1]):02}:{found[2]}"


def delimiter_of(value: str) -> str:
    """Check the CSV delimiter, a single character."""
    found = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(found) != 1 or found in '"\r\n\0\ufeff' or found.isalnum():
        raise ValueError("write the one character that separates the cells: , or ; or tab")
    return found


def default_ledger() -> str:
    """Return the URL of the default ledger in the user's state folder.

    Returns:
        The URL; empty where the home folder is unknown (no HOME, no passwd entry).
    """
    import platformdirs  # noqa: PLC0415 - unused where a ledger is named

    try:
        path = platformdirs.user_state_path("uploader") / "ledger.db"
    except RuntimeError:
        return ""
    # its earlier releases leave the ~ as it is
    return f"sqlite:///{path}" if path.is_absolute() else ""
