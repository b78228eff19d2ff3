"""Reads secrets from the environment, from files that it names, and from the secrets folder of a container."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from uploader import pipes

PREFIX = "UPLOADER_"
# the secrets folder of a container; ``UPLOADER_SECRETS_DIR`` names another
FOLDER = Path("/run/secrets")
FOLDER_VARIABLE = "UPLOADER_SECRETS_DIR"
# settings that are secret: neither flags nor keys of the config file
CREDENTIALS = ("app_id", "app_secret", "access_token")
# further settings that neither a flag nor the config file may give
OTHERS = ("status_token",)
# settings whose values are never shown; the address of a notification may have a secret in it
HIDDEN = (*CREDENTIALS, *OTHERS, "notify")
# settings that ``UPLOADER_…_FILE`` may name a file for; the ledger's address may have a password in it
FROM_FILES = (*HIDDEN, "ledger")
MOST_BYTES = 64 * 1024
_QUOTES = "'\"`\u2018\u2019\u201c\u201d\u201e"
# the part before a token where a header was copied whole
_SCHEME = re.compile(r"(?:authorization\s*:\s*)?(?:bearer|token|basic)(?:\s+|\s*:)|authorization\s*:", re.IGNORECASE)
# user and password in an address
_LOGIN = re.compile(r"(?<=://)\S*@")
_PASSWORD = re.compile(r"(?<=password=)[^&\s'\"]+", re.IGNORECASE)


def folder(environment: Mapping[str, str]) -> Path | None:
    """Return the secrets folder; None where there is none.

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
    """Read secrets from the environment, else from files that it names, else from the secrets folder.

    Args:
        names: Names of settings, such as ``app_secret``: the variable is ``UPLOADER_APP_SECRET``, the file is
            named by ``UPLOADER_APP_SECRET_FILE``, and in the folder it is ``uploader_app_secret``.
        environment: The variables.

    Returns:
        The secrets that are set, without white space around them; an empty variable is not set.

    Raises:
        ValueError: A file cannot be read, is empty, or contradicts a variable; the text never shows its content.
    """
    inside = folder(environment)
    found = {name: _find(name, environment, inside) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def of_account(account: str) -> tuple[str, ...]:
    """Return the settings that hold an account's credentials, in the order of ``CREDENTIALS``.

    Args:
        account: The account's name in the config file, empty for the one that is set above all tables.
    """
    return tuple([f"accounts__{normalised(account)}__{name}" for name in CREDENTIALS]) if account else CREDENTIALS


def normalised(account: str) -> str:
    """Return an account's name as it stands in variables and file names."""
    return account.lower().replace("-", "_")


def are_in_files(names: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return True where some of these secrets come from files, which may change while a program runs."""
    inside = folder(environment)
    named = any(environment.get(variable(name) + "_FILE") for name in names)
    return named or (inside is not None and any(in_folder(name, inside) for name in names))


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def in_folder(name: str, inside: Path) -> Path | None:
    """Return the setting's file in the secrets folder, in any letter case; None where there is none."""
    return next((file for file in sorted(inside.iterdir()) if file.name.lower() == variable(name).lower()), None)


def has_password(address: str) -> bool:
    """Return True where an address has a password in it."""
    login = _LOGIN.search(address)
    return (login is not None and ":" in login[0]) or _PASSWORD.search(address) is not None


def without_login(address: str) -> str:
    """Return an address without user and password, as it may be shown."""
    return _PASSWORD.sub("…", _LOGIN.sub("…@", address))


def is_without_login(address: str) -> bool:
    """Return True where ``without_login`` has taken something out of an address."""
    return "…" in address


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
    """Check that a secret is one line of text, without quotes or a scheme copied along; return it.

    Raises:
        ValueError: It is not; the text never shows it.
    """
    if not value.isprintable():
        raise ValueError(f"{source}: this is no secret: write it as one line of text")
    if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES:
        raise ValueError(f"{source}: it stands in quotes, which would be a part of it: write it without")
    if not name.endswith("access_token"):
        return value
    scheme = _SCHEME.match(value)
    if scheme is not None:
        raise ValueError(f"{source}: it begins with {scheme[0].strip()!r}: write the token alone, without that word")
    if not value.isascii() or " " in value:
        raise ValueError(f"{source}: no token has blanks or letters beyond ASCII: write the token alone")
    return value


def _read(path: Path, source: str) -> str:
    try:
        content = pipes.read(path, MOST_BYTES)
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
