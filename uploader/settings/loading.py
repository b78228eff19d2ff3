"""Puts the settings together from flags, environment, secrets and file, and tells what is wrong with them."""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    SettingsConfigDict,
    SettingsError,
)

from uploader import secrets
from uploader.errors import UsageError
from uploader.settings.fields import ENVIRONMENT_PREFIX, SECRETS, Settings
from uploader.settings.lines import line_of
from uploader.settings.wording import field_at, remedy

CheckParameters = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[tuple[Sequence[str], str]]]
"""Holds ``[parameters]`` and ``[extra_parameters]`` against what the service knows: where, and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where settings come from. ``text`` is what stands in the config file, ``folder`` that of the secrets."""

    flags: Mapping[str, Any]
    config: Path | None
    text: str
    folder: Path | None


def load(flags: Mapping[str, Any], config: Path | None, check_parameters: CheckParameters | None = None) -> Settings:
    """Put the settings together: flag over environment over secrets folder over file over default.

    Args:
        flags: What the command line set, by the setting's name.
        config: The config file, None for none.
        check_parameters: Tells what is wrong with the parameters that hold for every row, so that it is told with all
            that is wrong.

    Raises:
        UsageError: A value that does not fit, an unknown key, a file that cannot be read; the text names
            the source, the setting, the value and the remedy.
    """
    text = _read_file(config) if config is not None else ""
    passed_over = _check_file(config, text) if config is not None else []
    _check_ledger_address(flags.get("ledger"), "--ledger")
    try:
        folder = secrets.folder(os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sources = _Sources(flags, config, text, folder)
    found: dict[str, Any] = {}
    told = [f"{_file_at(sources, [name])}: {name}: no such setting{_close_to([name])}" for name in passed_over]
    settings: Settings | None = None
    try:
        settings = _reader(config, found)(_secrets_dir=folder, **flags)
        settings._file = f"config file {config}" if config is not None else "environment"  # noqa: SLF001 - our own
        given = settings.model_fields_set
        settings._sources = {name: _source([name], sources) for name in given}  # noqa: SLF001 - our own
    except ValidationError as error:
        told += [_tell(dict(one), sources) for one in error.errors()]
    except SettingsError as error:
        raise UsageError(_tell_unreadable(str(error), folder)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"secrets folder {folder}: a file in it is no UTF-8 text: {error.reason}") from None
    if check_parameters is not None:
        wrong = check_parameters(found.get("parameters", {}), found.get("extra_parameters", {}))
        told += [f"{_source(location, sources)}: {said}" for location, said in wrong]
    if told or settings is None:
        raise UsageError("\n".join(told))
    return settings


def _reader(config: Path | None, found: dict[str, Any]) -> type[Settings]:
    """The settings as they are read; the parameters come into ``found`` whatever else is wrong."""

    class FromFile(Settings):
        # pydantic-settings takes the file's path from the class
        model_config = SettingsConfigDict(toml_file=config)

        @field_validator("parameters", "extra_parameters")
        @classmethod
        def keep(cls, value: Any, which: ValidationInfo) -> Any:
            """Keep what the sources say."""
            found[str(which.field_name)] = value
            return value

    return FromFile


def _check_ledger_address(address: Any, source: str) -> None:
    """A password on the command line is seen by everybody on the machine; a config file is shown around, too."""
    if isinstance(address, str) and secrets.has_password(address):
        raise UsageError(
            f"{source}: ledger = {secrets.without_login(address)!r}: a password has no place there: set "
            "UPLOADER_LEDGER in the environment, or name a file with the address in UPLOADER_LEDGER_FILE"
        )


def _tell_unreadable(message: str, folder: Path | None) -> str:
    """Say which value could not be read at all; a secret's is never repeated."""
    found = re.search(r'field "(\w+)"', message)
    name = found[1] if found else "a setting"
    if "Secrets" in message:
        return f"secrets folder {folder}: {name}: this cannot be read: write it as UTF-8 text"
    variable = ENVIRONMENT_PREFIX + name.upper()
    given = sorted(one for one in os.environ if one.upper().split("__")[0] == variable) or [variable]
    return (
        f'environment {", ".join(given)}: this is no JSON: write a table as {{"KEY": "VALUE"}} and a list as [1, 2]; a '
        f"key of a table has a variable of its own, {variable}__KEY"
    )


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"config file {path}: {error.strerror}: name one that can be read") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config file {path}: no TOML: {error}") from error


def _check_file(path: Path, text: str) -> list[str]:
    """Check what pydantic-settings would not: that the file is TOML, has no secrets; the keys it passes over."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"config file {path}: no TOML: {error}") from error
    _check_ledger_address(table.get("ledger"), f"config file {path}")
    for name in table:
        if name.lower() in SECRETS:
            raise UsageError(
                f"config file {path}: {name}: secrets do not belong in a config file: set "
                f"{ENVIRONMENT_PREFIX}{name.upper()} or put it into the secrets folder"
            )
    return [name for name in table if name not in Settings.model_fields and name.lower() in Settings.model_fields]


def _tell(error: Mapping[str, Any], sources: _Sources) -> str:
    # the place in a list is left out: the value tells which it is
    location = [part for part in error["loc"] if isinstance(part, str)]
    name = location[0]
    if error["type"] == "extra_forbidden" and len(location) == 1:
        # nowhere else can one stand
        return f"{_file_at(sources, location)}: {name}: no such setting{_close_to(location)}"
    where = _source(location, sources)
    if error["type"] == "extra_forbidden":
        return f"{where}: {'.'.join(location)}: no such setting{_close_to(location)}"
    value = "" if name in SECRETS else secrets.without_login(repr(error["input"]))
    said = remedy(error["type"], error.get("ctx", {}), field_at(Settings, location))
    if name in sources.flags:
        return f"{where} {value}: {said}"
    return f"{where}: {'.'.join(location)}{value and f' = {value}'}: {said}"


def _close_to(location: Sequence[str]) -> str:
    known = set(Settings.model_fields)
    if len(location) > 1:
        table = Settings.model_fields[location[0]].annotation
        known = set(getattr(table, "model_fields", {}))
    close = difflib.get_close_matches(location[-1].lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _source(location: Sequence[str], sources: _Sources) -> str:
    """Where a setting's value came from, looked for in the order of rank."""
    name = location[0]
    if name in sources.flags:
        return f"--{name.replace('_', '-')}"
    given = {variable.upper() for variable in os.environ}
    for variable in (ENVIRONMENT_PREFIX + "__".join(location).upper(), ENVIRONMENT_PREFIX + name.upper()):
        if variable in given:
            return f"environment {variable}"
    secret = (ENVIRONMENT_PREFIX + name).lower()
    if name in secrets.FROM_FILES and os.environ.get(secrets.variable(name) + "_FILE"):
        return f"environment {secrets.variable(name)}_FILE"
    if sources.folder is not None and any(file.name.lower() == secret for file in sources.folder.iterdir()):
        return f"secrets folder {sources.folder}"
    return _file_at(sources, location)


def _file_at(sources: _Sources, location: Sequence[str]) -> str:
    """The config file, and the line of a key in it."""
    line = line_of(sources.text, location)
    return f"config file {sources.config}" + (f", line {line}" if line is not None else "")


def unknown_environment() -> list[str]:
    """Variables that look like ours and are none: a typing mistake that would go unseen."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    known |= {secrets.variable(name) + "_FILE" for name in secrets.FROM_FILES}
    known |= {"UPLOADER_CONFIG", secrets.FOLDER_VARIABLE, "UPLOADER_JSON"}
    return sorted(
        name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name.split("__")[0] not in known
    )
