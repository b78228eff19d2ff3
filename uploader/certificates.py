"""Imports aiohttp without certificates that nobody uses, and builds the TLS contexts of all connections."""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uploader.errors import UsageError

# environment variables that name CA certificates, as other programs read them
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def _deferred(load: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method that reads certificates: the context's first connection calls it."""

    def defer(context: ssl.SSLContext, *args: Any) -> None:
        def loading(name: str) -> Callable[..., Any]:
            def wrap(*words: Any, **options: Any) -> Any:
                for deferred in ("wrap_bio", "wrap_socket"):
                    vars(context).pop(deferred, None)
                load(context, *args)
                return getattr(context, name)(*words, **options)

            return wrap

        vars(context).update(wrap_bio=loading("wrap_bio"), wrap_socket=loading("wrap_socket"))

    return defer


@contextmanager
def _certificates_deferred() -> Iterator[None]:
    """Defer what contexts that are made in the block read of the system's certificates."""
    with_own = vars(ssl.SSLContext).copy()
    loaders = ("load_default_certs", "set_default_verify_paths")
    for name in loaders:
        setattr(ssl.SSLContext, name, _deferred(getattr(ssl.SSLContext, name)))
    try:
        yield
    finally:
        for name in loaders:
            if name in with_own:
                setattr(ssl.SSLContext, name, with_own[name])
            else:
                delattr(ssl.SSLContext, name)


# aiohttp makes one context that verifies and one that does not as it is imported; each reads all certificates (20 ms),
# and a command needs neither of them over plain HTTP, and a context of its own over TLS
with _certificates_deferred():
    import aiohttp  # noqa: F401 - see above


def ssl_context(base_url: str) -> ssl.SSLContext | bool:
    """Build the TLS context of the certificates that the usual environment variables name; True without TLS.

    Raises:
        UsageError: A variable names a missing path, or a bundle without a certificate.
    """
    if urlsplit(base_url).scheme == "http":
        return True  # reading the system's certificates takes 20 ms
    for variable in CA_VARIABLES[:2]:
        named = os.environ.get(variable)
        # SSL_CERT_DIR is a list
        if named and not any(os.access(path, os.R_OK) for path in (named, *named.split(os.pathsep)) if path):
            raise UsageError(
                f"environment {variable}: {named}: there is nothing that can be read: correct it, or unset it"
            )
    context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR by itself, and ignores failures
    context.set_alpn_protocols(["http/1.1"])
    for variable in CA_VARIABLES[2:]:
        bundle = os.environ.get(variable)
        if bundle:
            _trust(context, variable, Path(bundle))
    return context


def _trust(context: ssl.SSLContext, variable: str, bundle: Path) -> None:
    try:
        if bundle.is_dir():
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"environment {variable}: {bundle}: no CA certificates can be read there ({reason}): name a PEM file"
        ) from error
