"""Loads the settings from flags, environment, secrets and config file, and reports all that is wrong."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uploader import pipes, secrets, toml
from uploader.errors import UsageError
from uploader.settings.checks import UnfitError, mapping
from uploader.settings.fields import ENVIRONMENT_PREFIX, SECRETS, Settings
from uploader.settings.tables import Setting, check_name, settings_of
from uploader.text import storable
from uploader.toml import DEEPEST, check_bounds

# a config file has fewer, and a device without an end has more
MOST_CONFIG_BYTES = 16 * 1024 * 1024
# the least similarity (0 to 1) of a variable's name and a setting's that counts as a typing error
_NEAR = 0.7
_NAMING_FILES = ("HOME", "XDG_STATE_HOME")
_OF_A_SERVICE = re.compile(
    r"UPLOADER_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
    r"|UPLOADER_PORT"
)

# checks ``[parameters]`` and ``[extra_parameters]``; gives the location and message of each problem
CheckParameters = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[tuple[Sequence[str], str]]]

# a setting's name, after its table's where it has one
Location = tuple[str, ...]

# the most characters of a wrong value in a message
VALUE_MOST = 200

# the separator of a table's name and its key's in a variable's name
_IN_TABLES = "__"


@dataclass(frozen=True, slots=True)
class _Sources:
    """The sources of settings, and the problems found in them (``wrong``).

    ``text`` is the config file's content, ``folder`` the secrets folder; variables' names are upper case.
    """

    flags: Mapping[str, Any]
    config: Path | None
    text: str
    folder: Path | None
    variables: Mapping[str, str]
    wrong: list[str] = field(default_factory=list)

    def of(self, location: Location) -> str:
        """Name the source of a setting's value, the highest-ranking first."""
        name = location[0]
        if name in self.flags:
            return f"--{name.replace('_', '-')}"
        # of an account's setting, the account's name as variables have it
        whole = _IN_TABLES.join((name, *map(secrets.normalised, location[1:])))
        for variable in dict.fromkeys((secrets.variable(whole), secrets.variable(name))):
            if variable in self.variables:
                return f"environment {variable}"
        is_secret = name in secrets.FROM_FILES or location[-1] in secrets.CREDENTIALS
        if is_secret and os.environ.get(secrets.variable(whole) + "_FILE"):
            return f"environment {secrets.variable(whole)}_FILE"
        if self.folder is not None and secrets.in_folder(whole, self.folder) is not None:
            return f"secrets folder {self.folder}"
        return self.file_at(location)

    def file_at(self, location: Location) -> str:
        """Name the config file, and the line of a key in it."""
        from uploader.settings.lines import line_of  # noqa: PLC0415 - of use where something is wrong

        line = line_of(self.text, location)
        return f"config file {self.config}" + (f", line {line}" if line is not None else "")


def load(flags: Mapping[str, Any], config: Path | None, check_parameters: CheckParameters | None = None) -> Settings:
    """Load the settings: flag over environment over secrets folder over file over default.

    Args:
        flags: The command line's values by setting.
        config: The config file, None for none.
        check_parameters: Checks the parameters that hold for every row, so that their problems are reported with all
            others.

    Raises:
        UsageError: A value does not fit, a key is unknown, or a file cannot be read; the text names the source, the
            setting, the value and the remedy.
    """
    text = _read_file(config) if config is not None else ""
    table = _read_table(config, text) if config is not None else {}
    _check_ledger_address(flags.get("ledger"), "--ledger")
    variables = {name.upper(): value for name, value in os.environ.items()}
    try:
        folder = secrets.folder(os.environ)
        found = secrets.find(secrets.FROM_FILES, os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sources = _Sources(flags, config, text, folder, variables)
    given = table
    for above in (_from_folder(sources), _from_environment(sources), found, flags):
        given = _over(given, above)
    given = _over(given, _of_accounts(given.get("accounts"), sources))
    checked = _checked(Settings, given, (), sources)
    if check_parameters is not None:
        known, extra = (given.get(name, {}) for name in ("parameters", "extra_parameters"))
        if isinstance(known, Mapping) and isinstance(extra, Mapping):
            sources.wrong.extend(
                f"{sources.of(tuple(location))}: {said}" for location, said in check_parameters(known, extra)
            )
    if sources.wrong:
        raise UsageError("\n".join(dict.fromkeys(sources.wrong)))
    return Settings(
        **checked,
        file=f"config file {config}" if config is not None else "environment",
        config=config,
        given=frozenset(checked),
        source=lambda *names: sources.of(names) if names[0] in checked else ".".join(names),
        rereads_credentials=True,
    )


def _checked(kind: type[Any], given: Mapping[str, Any], table: Location, sources: _Sources) -> dict[str, Any]:
    """Check the settings of a dataclass; add the problems to ``sources``."""
    checked: dict[str, Any] = {}
    known = settings_of(kind)
    for name, setting in known.items():
        location = (*table, name)
        if name not in given:
            continue
        try:
            value = setting.check(given[name])
        except UnfitError as error:
            sources.wrong.append(_describe(location, error, sources))
        else:
            checked[name] = _checked_tables(setting, value, location, sources)
    for name in given:
        if name not in known:
            where = sources.of((*table, name)) if table else sources.file_at((name,))
            meant = _close_to(name, known)
            sources.wrong.append(f"{where}: {'.'.join((*table, name))}: no such setting{meant}")
    return checked


def _checked_tables(setting: Setting, value: Any, location: Location, sources: _Sources) -> Any:
    """Check the tables in a setting's value, if it has any; return the value with their dataclasses."""
    if setting.table is not None:
        return setting.table(**_checked(setting.table, value, location, sources))
    if setting.tables is None:
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        where = (*location, name)
        try:
            check_name(name, found)
            found[name] = setting.tables(**_checked(setting.tables, mapping(inner), where, sources))
        except UnfitError as error:
            sources.wrong.append(_describe(where, error, sources))
    return found


def _describe(location: Location, error: UnfitError, sources: _Sources) -> str:
    """Describe a problem of a value; a secret's value is left out."""
    name, where = location[0], sources.of(location)
    value = "" if location[-1] in secrets.HIDDEN else secrets.without_login(repr(error.value))[:VALUE_MOST]
    if name in sources.flags:
        return f"{where}{value and f' {value}'}: {error}"
    return f"{where}: {'.'.join(location)}{value and f' = {value}'}: {error}"


def _close_to(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - of use where something is wrong

    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(sources: _Sources) -> dict[str, Any]:
    """Read settings from the environment; a table's key may have a variable of its own."""
    given: dict[str, Any] = {}
    for name, setting in settings_of(Settings).items():
        variable = secrets.variable(name)
        if name not in SECRETS and variable in sources.variables:
            given = _with((name,), sources.variables[variable], given, sources)
        if setting.table is not None or (setting.default is dict and setting.tables is None):
            for key in (
                variable_name for variable_name in sources.variables if variable_name.startswith(variable + _IN_TABLES)
            ):
                location = key.removeprefix(ENVIRONMENT_PREFIX).lower().split(_IN_TABLES)
                given = _with(tuple(location), sources.variables[key], given, sources)
    return given


def _of_accounts(written: Any, sources: _Sources) -> dict[str, Any]:
    """Read what variables and secret files say of accounts: ``UPLOADER_ACCOUNTS__NAME__LIMIT``, and so on."""
    accounts: dict[str, Any] = {}
    # a variable's name has no letter case and no hyphen: the account's own name has
    names = {secrets.normalised(name): name for name in written} if isinstance(written, Mapping) else {}
    prefix = secrets.variable("accounts") + _IN_TABLES
    files = [file.name.upper() for file in sources.folder.iterdir()] if sources.folder is not None else []
    for variable in sorted({*sources.variables, *files}):
        name, _, key = variable.removeprefix(prefix).lower().partition(_IN_TABLES)
        if not variable.startswith(prefix) or not key:
            continue
        own = accounts.setdefault(names.setdefault(name, name), {})
        if key.removesuffix("_file") not in secrets.CREDENTIALS and variable in sources.variables:
            own[key] = sources.variables[variable]
    for name in names.values():
        try:
            found = secrets.find(secrets.of_account(name), os.environ)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if found:
            accounts.setdefault(name, {}).update({key.rpartition(_IN_TABLES)[2]: text for key, text in found.items()})
    return {"accounts": accounts} if accounts else {}


def _from_folder(sources: _Sources) -> dict[str, Any]:
    """Read settings other than secrets from the secrets folder."""
    given: dict[str, Any] = {}
    for file in sorted(sources.folder.iterdir()) if sources.folder is not None else ():
        name = file.name.lower().removeprefix(ENVIRONMENT_PREFIX.lower())
        if file.name.lower() == name or name not in settings_of(Settings) or name in secrets.FROM_FILES:
            continue
        try:
            given = _with((name,), pipes.read(file, secrets.MOST_BYTES).decode("utf-8").strip(), given, sources)
        except OSError as error:
            raise UsageError(f"secrets folder: {file}: {error.strerror}: make it readable, or take it out") from error
        except UnicodeDecodeError as error:
            raise UsageError(
                f"secrets folder {sources.folder}: a file in it is no UTF-8 text: {error.reason}"
            ) from None
    return given


def _with(location: Location, text: str, given: Mapping[str, Any], sources: _Sources) -> dict[str, Any]:
    """Add a setting's text from a variable or file to the given settings; tables and lists are JSON."""
    value: Any = text
    if _is_complex(location):
        try:
            value = json.loads(text)
            check_bounds(value)
        except (ValueError, RecursionError):
            sources.wrong.append(_describe_unreadable(location[0], sources))
            return dict(given)
    if len(location) > DEEPEST:
        sources.wrong.append(_describe_unreadable(location[0], sources))
        return dict(given)
    for name in reversed(location):
        value = {name: value}
    return _over(given, value)


def _describe_unreadable(name: str, sources: _Sources) -> str:
    variable = secrets.variable(name)
    named = sorted(
        variable_name for variable_name in sources.variables if variable_name.split(_IN_TABLES)[0] == variable
    )
    where = f"environment {', '.join(named)}" if named else f"secrets folder {sources.folder}: {name}"
    return (
        f'{where}: this is no JSON: write a table as {{"KEY": "VALUE"}} and a list as [1, 2]; a key of a table has a '
        f"variable of its own, {variable}{_IN_TABLES}KEY"
    )


def _is_complex(location: Location) -> bool:
    """Return True where a setting is a table or a list."""
    known = settings_of(Settings)
    for name in location[:-1]:
        table = known[name].table if name in known else None
        if table is None:
            return False  # a key of the service's, which is text
        known = settings_of(table)
    setting = known.get(location[-1])
    return setting is not None and (setting.table is not None or setting.default in ((), dict))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a source over another: tables key by key, other settings whole."""
    merged = dict(below)
    for name, value in above.items():
        former = merged.get(name)
        both = isinstance(former, Mapping) and isinstance(value, Mapping)
        merged[name] = _over(former, value) if both else value  # type: ignore[arg-type]
    return merged


def _check_ledger_address(address: Any, source: str) -> None:
    """Refuse a password in a ledger's URL outside the environment: other users see a command line or config file."""
    if isinstance(address, str) and secrets.has_password(address):
        raise UsageError(
            f"{source}: ledger = {secrets.without_login(address)!r}: a password has no place there: set "
            "UPLOADER_LEDGER in the environment, or name a file with the address in UPLOADER_LEDGER_FILE"
        )


def _read_file(path: Path) -> str:
    try:
        # some editors begin a file with a byte order mark
        content = pipes.read(path, MOST_CONFIG_BYTES)
        if len(content) > MOST_CONFIG_BYTES:
            raise UsageError(f"config file {path}: it has more than {MOST_CONFIG_BYTES} bytes: name another")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"config file {path}: {error.strerror}: name one that can be read") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config file {path}: no TOML: {error}") from error


def _read_table(path: Path, text: str) -> dict[str, Any]:
    """Read the config file, and refuse secrets in it."""
    from uploader.settings.lines import line_of  # noqa: PLC0415 - of use where something is wrong

    try:
        table = toml.read(text)
    except ValueError as error:
        raise UsageError(f"config file {path}: {error}") from error
    _check_ledger_address(table.get("ledger"), f"config file {path}")
    for name in table:
        if name.lower() in SECRETS:
            line = line_of(text, (name,))
            where = f"config file {path}" + (f", line {line}" if line is not None else "")
            raise UsageError(
                f"{where}: {name}: secrets do not belong in a config file: set "
                f"{secrets.variable(name)} or put it into the secrets folder"
            )
    return table


def check_words(words: Iterable[str], environment: Mapping[str, str]) -> None:
    """Check that arguments, working folder and variables are UTF-8, because file names may hold any bytes.

    Args:
        words: The command's words.
        environment: The variables.

    Raises:
        UsageError: A word, variable or path is no UTF-8.
    """
    for word in words:
        if storable(word) != word:
            raise UsageError(f"argument {_bytes_shown(word)}: this is not UTF-8: rename it, or name it otherwise")
    for name, value in environment.items():
        is_ours = name in _NAMING_FILES or name.upper().startswith(ENVIRONMENT_PREFIX)
        if is_ours and storable(name + value) != name + value:
            # it may be a secret: it is not shown
            raise UsageError(f"environment {_bytes_shown(name)}: this is not UTF-8: set it anew")
    with suppress(OSError):  # a folder that is gone has no name
        here = str(Path.cwd())
        if storable(here) != here:
            raise UsageError(f"the current folder {_bytes_shown(here)}: its name is not UTF-8: rename it")


def _bytes_shown(text: str) -> str:
    return os.fsencode(text).decode(errors="backslashreplace")


def unknown_environment() -> list[str]:
    """List unknown variables with the uploader's prefix that resemble no setting.

    Raises:
        UsageError: A variable is most likely a mistyped setting.
    """
    known = {secrets.variable(name) for name in settings_of(Settings)}
    known |= {secrets.variable(name) + "_FILE" for name in secrets.FROM_FILES}
    known |= {"UPLOADER_CONFIG", secrets.FOLDER_VARIABLE, "UPLOADER_JSON"}
    unknown = [
        name
        for name, value in sorted(os.environ.items())
        if name.upper().startswith(ENVIRONMENT_PREFIX)
        and name.upper().split(_IN_TABLES)[0] not in known
        and not _is_of_a_cluster(name, value)
    ]
    mistyped = {name: meant for name in unknown if (meant := _meant(name, known))}
    if mistyped:
        raise UsageError(
            "\n".join(
                f"environment {name}: no such setting; did you mean {meant}? correct the name, or unset it"
                for name, meant in mistyped.items()
            )
        )
    return unknown


def _meant(name: str, known: Iterable[str]) -> str:
    """Find the variable that a name resembles; empty where there is none."""
    import difflib  # noqa: PLC0415 - of use where something is wrong

    keys = {
        secrets.variable(f"{table}{_IN_TABLES}{key}"): None
        for table, setting in settings_of(Settings).items()
        if setting.table is not None
        for key in settings_of(setting.table)
    }
    names = {variable_name.removeprefix(ENVIRONMENT_PREFIX): variable_name for variable_name in (*known, *keys)}
    close = difflib.get_close_matches(name.upper().removeprefix(ENVIRONMENT_PREFIX), names, n=1, cutoff=_NEAR)
    return names[close[0]] if close else ""


def _is_of_a_cluster(name: str, value: str) -> bool:
    """Return True where Kubernetes or Docker links set this variable for a service with the same prefix."""
    if _OF_A_SERVICE.fullmatch(name) is not None:
        return True
    return name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
