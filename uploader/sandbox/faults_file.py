"""Reads a faults file (TOML), and refuses unknown keys and values."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from uploader.errors import UsageError
from uploader.sandbox.fault_plan import fault_shares
from uploader.sandbox.faults import CallFaults, Faults, JobFaults, PollFaults, PutFaults

Rule = Callable[[object], Any]

# Decimals that make 1 on paper may make a little more in binary.
ROUNDING: Final = 1e-9


def load_faults(path: Path) -> Faults:
    """Read the faults from a TOML file.

    Raises:
        UsageError: The file cannot be read, or a key, a type or a share in it is not understood.
    """
    top = _read(path)
    tables = {name: _table(path, name, top.pop(name, {}), rules) for name, rules in _TABLES.items()}
    values = _checked(path, "", top, _TOP)
    return Faults(
        **values,
        put=PutFaults(**tables["put"]),
        jobs=JobFaults(**tables["jobs"]),
        poll=PollFaults(**tables["poll"]),
        calls=CallFaults(**tables["calls"]),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        repr(found)  # numbers and nesting without end cannot be shown
    except OSError as error:
        raise UsageError(f"{path}: the faults file cannot be read ({error.strerror}): name a readable file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the faults file cannot be read ({error}): write it in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: the faults file is not TOML: {error}") from error
    return found


def _table(path: Path, name: str, table: object, rules: Mapping[str, Rule]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} = {table!r}: write it as a table, [{name}]")
    values = _checked(path, f"{name}.", table, rules)
    shares = fault_shares(values)
    if sum(shares.values()) > 1 + ROUNDING:
        listed = ", ".join(f"{key} = {value:g}" for key, value in shares.items())
        raise UsageError(f"{path}: [{name}] {listed}: the shares together are above 1: lower one of them")
    return values


def _checked(path: Path, prefix: str, table: Mapping[str, object], rules: Mapping[str, Rule]) -> dict[str, Any]:
    return {key: _value(path, prefix + key, value, rules.get(key, _unknown(rules))) for key, value in table.items()}


def _value(path: Path, key: str, value: object, rule: Rule) -> Any:
    try:
        return rule(value)
    except ValueError as error:
        raise UsageError(f"{path}: {key} = {value!r}: {error}") from error


def _unknown(rules: Mapping[str, Rule]) -> Rule:
    def refuse(_value: object) -> None:
        tables = f" or a table {', '.join(f'[{name}]' for name in _TABLES)}" if rules is _TOP else ""
        raise ValueError(f"no such key: use one of {', '.join(sorted(rules))}{tables}")

    return refuse


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("write a whole number")  # noqa: TRY004 - the caller turns it into a UsageError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")  # noqa: TRY004 - as above
    return value


def _ids(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError('write a list of conversation ids as text, such as ["5815170693595136"]')
    return frozenset(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("write a number, such as 0.05")
    return float(value)


def _share(value: object) -> float:
    share = _number(value)
    if not 0 <= share <= 1:
        raise ValueError("a share is a number from 0 to 1, such as 0.05 for one in twenty")
    return share


def _seconds(value: object) -> float:
    seconds = _number(value)
    if seconds < 0:
        raise ValueError("write a number of seconds, 0 or more")
    return seconds


_TOP: Final[dict[str, Rule]] = {
    "seed": _seed,
    "early_answers": _flag,
    "ignores_expect": _flag,
    "unknown_conversations": _ids,
    "known_conversations": _ids,
}
_PUT: Final[dict[str, Rule]] = {each.name: _share for each in fields(PutFaults)}
_CALLS: Final[dict[str, Rule]] = {each.name: _share for each in fields(CallFaults)}
_TABLES: Final[dict[str, dict[str, Rule]]] = {
    "put": _PUT | {"slow_seconds": _seconds},
    "jobs": {each.name: _share for each in fields(JobFaults)},
    "poll": {each.name: _share for each in fields(PollFaults)},
    "calls": _CALLS | {"late_seconds": _seconds},
}
