"""Reads the config's [parameters] and [extra_parameters]."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from uploader.errors import UsageError
from uploader.parameters.parameter import Encoding, Parameter
from uploader.parameters.table import TABLE
from uploader.parameters.text import check_whole

_BY_LOWER_CASE = {name.lower(): parameter for name, parameter in TABLE.items()}
"""The environment's names have no case: UPLOADER_PARAMETERS__DETECTPHRASES."""


def check_config(parameters: Mapping[str, Any], extra: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the parameters that hold for every row which does not set them itself.

    Args:
        parameters: ``[parameters]`` as the settings have it.
        extra: ``[extra_parameters]``: what the service knows and this table does not, passed on as it is.
        source: What to call the config file in an error.

    Raises:
        UsageError: A key that is no parameter or stands in the wrong table, or a value that does not fit; all of
            them are told.
    """
    checked, wrong = _read_all(parameters, extra)
    if wrong:
        raise UsageError("\n".join(f"{source}: {said}" for _, said in wrong))
    return checked


def wrong_parameters(parameters: Mapping[str, Any], extra: Mapping[str, Any]) -> list[tuple[Sequence[str], str]]:
    """What is wrong with these parameters, all of it: each with the names of its table and its key."""
    return _read_all(parameters, extra)[1]


def _read_all(
    parameters: Mapping[str, Any], extra: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[Sequence[str], str]]]:
    checked: dict[str, Any] = {}
    wrong: list[tuple[Sequence[str], str]] = []
    for called, check, table in (
        ("parameters", _check_known, parameters),
        ("extra_parameters", _check_extra, extra),
    ):
        # what the environment says comes last: it outranks the file
        for name in sorted(table, key=lambda key: key not in TABLE):
            try:
                known, value = check(name, table[name])
            except ValueError as error:
                wrong.append(((called, name), str(error)))
            else:
                checked[known] = value
    return checked, wrong


def _check_known(name: str, value: Any) -> tuple[str, Any]:
    parameter = TABLE.get(name) or _BY_LOWER_CASE.get(name)
    if parameter is None:
        close = difflib.get_close_matches(name, TABLE, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"[parameters] {name}: no such parameter{meant}; known are: {', '.join(TABLE)}; what this list lacks goes "
            "into [extra_parameters]"
        )
    try:
        return parameter.name, _read(parameter, value)
    except ValueError as error:
        raise ValueError(f"[parameters] {name} = {value!r}: {error}") from error


def _read(parameter: Parameter, value: Any) -> Any:
    """The environment has text alone: it is read as a cell is."""
    if isinstance(value, str) and parameter.encoding is not Encoding.TEXT:
        return parameter.read_cell(value)
    known = parameter.check(value)
    check_whole(known)
    return known


def _check_extra(name: str, value: Any) -> tuple[str, Any]:
    known = _BY_LOWER_CASE.get(name.lower())
    if known is not None:
        raise ValueError(f"[extra_parameters] {name}: this is a known parameter: write {known.name} into [parameters]")
    try:
        check_whole([name, value])
    except ValueError as error:
        raise ValueError(f"[extra_parameters] {name!r} = {value!r}: {error}") from error
    if not name:
        raise ValueError("[extra_parameters] a parameter without a name: write one")
    return name, value
