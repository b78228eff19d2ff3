"""Finds secrets in the environment, in files that it names, and in the folder where containers have them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PREFIX = "UPLOADER_"
FOLDER = Path("/run/secrets")
"""Where containers have their secrets; ``UPLOADER_SECRETS_DIR`` names another folder."""
FOLDER_VARIABLE = "UPLOADER_SECRETS_DIR"
CREDENTIALS = ("app_id", "app_secret", "access_token")
"""What is a secret: no flag, no config file."""
FROM_FILES = (*CREDENTIALS, "ledger")
"""What ``UPLOADER_…_FILE`` may name a file for; the ledger's address may have a password in it."""
MOST_BYTES = 64 * 1024
_QUOTES = "'\"`\u2018\u2019\u201c\u201d\u201e"
_SCHEME = re.compile(r"(?:authorization\s*:\s*)?(?:bearer|token|basic)(?:\s+|\s*:)|authorization\s*:", re.IGNORECASE)
"""What stands before a token where a header was copied whole."""
_LOGIN = re.compile(r"(?<=://)\S*@")
_PASSWORD = re.compile(r"(?<=password=)[^&\s'\"]+", re.IGNORECASE)
"""Where an address may have user and password."""


def folder(environment: Mapping[str, str]) -> Path | None:
    """The secrets folder; None where there is none.

    Raises:
        ValueError: The environment names one that is none, or that cannot be read.
    """
    named = environment.get(FOLDER_VARIABLE)
    found = Path(named) if named else FOLDER
    try:
        next(found.iterdir(), None)
    except OSError as error:
        if not named:
            return None
        raise ValueError(
            f"environment {FOLDER_VARIABLE}: {named}: {error.strerror}: name a folder that can be read, or unset it"
        ) from error
    return found


def find(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Read secrets as they are now: from the environment, else from a file that it names, else from the folder.

    Args:
        names: Settings by their names, ``app_secret`` say: the variable is ``UPLOADER_APP_SECRET``, the file is
            named by ``UPLOADER_APP_SECRET_FILE``, and in the folder it is ``uploader_app_secret``.
        environment: The variables.

    Returns:
        What was found, without white space around it; a variable that is empty is none.

    Raises:
        ValueError: A file cannot be read, is empty, or contradicts a variable; the text never shows what is in it.
    """
    inside = folder(environment)
    found = {name: _find(name, environment, inside) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def are_in_files(environment: Mapping[str, str]) -> bool:
    """Whether credentials come from files, at least in part: then they may change while a program runs."""
    inside = folder(environment)
    named = any(environment.get(variable(name) + "_FILE") for name in CREDENTIALS)
    return named or (inside is not None and any(in_folder(name, inside) for name in CREDENTIALS))


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def in_folder(name: str, inside: Path) -> Path | None:
    """The setting's file in the secrets folder, in capitals or not; None where there is none."""
    return next((file for file in sorted(inside.iterdir()) if file.name.lower() == variable(name).lower()), None)


def has_password(address: str) -> bool:
    """Whether an address has a password in it."""
    login = _LOGIN.search(address)
    return (login is not None and ":" in login[0]) or _PASSWORD.search(address) is not None


def without_login(address: str) -> str:
    """An address as it may be shown: without the user and the password that may stand in it."""
    return _PASSWORD.sub("…", _LOGIN.sub("…@", address))


def _find(name: str, environment: Mapping[str, str], inside: Path | None) -> str | None:
    value, named = (environment.get(variable(name) + ending, "").strip() for ending in ("", "_FILE"))
    if value and named:
        raise ValueError(f"environment {variable(name)}: {variable(name)}_FILE is set too: unset one of them")
    if value:
        return _checked(value, name, f"environment {variable(name)}")
    if named:
        source = f"environment {variable(name)}_FILE: {named}"
        return _checked(_read(Path(named), source), name, source)
    file = in_folder(name, inside) if inside else None
    if file is None:
        return None
    source = f"secrets folder: {file}"
    return _checked(_read(file, source), name, source)


def _checked(value: str, name: str, source: str) -> str:
    """See that a secret is what was meant: one line, without what a copy brought along."""
    if not value.isprintable():
        raise ValueError(f"{source}: this is no secret: write it as one line of text")
    if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES:
        raise ValueError(f"{source}: it stands in quotes, which would be a part of it: write it without")
    if name != "access_token":
        return value
    scheme = _SCHEME.match(value)
    if scheme is not None:
        raise ValueError(f"{source}: it begins with {scheme[0].strip()!r}: write the token alone, without that word")
    if not value.isascii() or " " in value:
        raise ValueError(f"{source}: no token has blanks or letters beyond ASCII: write the token alone")
    return value


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        value = content.decode("utf-8").strip()
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror}: name a file that can be read") from error
    except UnicodeDecodeError:
        # its own text would show a part of the content
        raise ValueError(f"{source}: this cannot be read: write it as UTF-8 text") from None
    if not value:
        raise ValueError(f"{source}: the file is empty: write the secret into it")
    if len(content) > MOST_BYTES:
        raise ValueError(f"{source}: this is no secret: write it as one line of text")
    return value
