"""Imports aiohttp, and has its two TLS contexts read the system's certificates only when they are used."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
