"""Puts the settings together from flags, environment, secrets and file, and tells what is wrong with them."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)
from pydantic_settings import (
    SettingsConfigDict,
    SettingsError,
)

from uploader import secrets
from uploader.errors import UsageError
from uploader.settings.fields import ENVIRONMENT_PREFIX, SECRETS, Settings


def load(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """Put the settings together: flag over environment over secrets folder over file over default.

    Args:
        flags: What the command line set, by the setting's name.
        config: The config file, None for none.

    Raises:
        UsageError: A value that does not fit, an unknown key, a file that cannot be read; the text names
            the source, the setting, the value and the remedy.
    """
    passed_over = _check_file(config) if config is not None else []
    _check_ledger_address(flags.get("ledger"), "--ledger")
    try:
        folder = secrets.folder(os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from error

    class FromFile(Settings):
        # pydantic-settings takes the file's path from the class
        model_config = SettingsConfigDict(toml_file=config)

    told = [f"config file {config}: {name}: no such setting{_close_to([name])}" for name in passed_over]
    try:
        settings = FromFile(_secrets_dir=folder, **flags)
        settings._file = f"config file {config}" if config is not None else "environment"  # noqa: SLF001 - our own
        given = settings.model_fields_set
        settings._sources = {name: _source([name], flags, config, folder) for name in given}  # noqa: SLF001 - our own
    except ValidationError as error:
        told += [_tell(dict(one), flags, config, folder) for one in error.errors()]
    except SettingsError as error:
        raise UsageError(_tell_unreadable(str(error), error.__cause__, folder)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"secrets folder {folder}: a file in it is no UTF-8 text: {error.reason}") from None
    else:
        if not told:
            return settings
    raise UsageError("\n".join(told))


def _check_ledger_address(address: Any, source: str) -> None:
    """A password on the command line is seen by everybody on the machine; a config file is shown around, too."""
    if isinstance(address, str) and secrets.has_password(address):
        raise UsageError(
            f"{source}: ledger = {secrets.without_login(address)!r}: a password has no place there: set "
            "UPLOADER_LEDGER in the environment, or name a file with the address in UPLOADER_LEDGER_FILE"
        )


def _tell_unreadable(message: str, cause: BaseException | None, folder: Path | None) -> str:
    """Say which value could not be read at all; a secret's is never repeated."""
    found = re.search(r'field "(\w+)"', message)
    name = found[1] if found else "a setting"
    if "Secrets" in message:
        return f"secrets folder {folder}: {name}: this cannot be read: write it as UTF-8 text"
    return f"environment {ENVIRONMENT_PREFIX}{name.upper()}: this is no JSON: {cause}"


def _check_file(path: Path) -> list[str]:
    """Check what pydantic-settings would not: that the file is TOML, has no secrets; the keys it passes over."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config file {path}: {error.strerror}: name one that can be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path}: no TOML: {error}") from error
    _check_ledger_address(table.get("ledger"), f"config file {path}")
    for name in table:
        if name.lower() in SECRETS:
            raise UsageError(
                f"config file {path}: {name}: secrets do not belong in a config file: set "
                f"{ENVIRONMENT_PREFIX}{name.upper()} or put it into the secrets folder"
            )
    return [name for name in table if name not in Settings.model_fields and name.lower() in Settings.model_fields]


def _tell(error: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None, folder: Path | None) -> str:
    location: Sequence[str] = [str(part) for part in error["loc"]]
    name = location[0]
    where = f"{_source(location, flags, config, folder)}: {'.'.join(location)}"
    if error["type"] == "extra_forbidden" and len(location) == 1:
        return f"config file {config}: {name}: no such setting{_close_to(location)}"  # nowhere else can one stand
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting{_close_to(location)}"
    value = "" if name in SECRETS else f" = {secrets.without_login(repr(error['input']))}"
    return f"{where}{value}: {str(error['msg']).removeprefix('Value error, ')}"


def _close_to(location: Sequence[str]) -> str:
    known = set(Settings.model_fields)
    if len(location) > 1:
        table = Settings.model_fields[location[0]].annotation
        known = set(getattr(table, "model_fields", {}))
    close = difflib.get_close_matches(location[-1].lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _source(location: Sequence[str], flags: Mapping[str, Any], config: Path | None, folder: Path | None) -> str:
    """Where a setting's value came from, looked for in the order of rank."""
    name = location[0]
    if name in flags:
        return f"--{name.replace('_', '-')}"
    variables = {ENVIRONMENT_PREFIX + name.upper(), ENVIRONMENT_PREFIX + "__".join(location).upper()}
    if variables & {variable.upper() for variable in os.environ}:
        return f"environment {ENVIRONMENT_PREFIX}{name.upper()}"
    secret = (ENVIRONMENT_PREFIX + name).lower()
    if name in secrets.FROM_FILES and os.environ.get(secrets.variable(name) + "_FILE"):
        return f"environment {secrets.variable(name)}_FILE"
    if folder is not None and any(file.name.lower() == secret for file in folder.iterdir()):
        return f"secrets folder {folder}"
    return f"config file {config}"


def unknown_environment() -> list[str]:
    """Variables that look like ours and are none: a typing mistake that would go unseen."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    known |= {secrets.variable(name) + "_FILE" for name in secrets.FROM_FILES}
    known |= {"UPLOADER_CONFIG", secrets.FOLDER_VARIABLE, "UPLOADER_JSON"}
    return sorted(
        name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name.split("__")[0] not in known
    )
