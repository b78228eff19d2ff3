"""Reads the config's [parameters] and [extra_parameters]."""

from collections.abc import Mapping, Sequence
from typing import Any

from uploader.errors import UsageError
from uploader.parameters.parameter import Encoding, Parameter
from uploader.parameters.table import TABLE
from uploader.parameters.text import check_whole

# names in the environment have no case: UPLOADER_PARAMETERS__DETECTPHRASES
_BY_LOWER_CASE = {name.lower(): parameter for name, parameter in TABLE.items()}


def check_config(parameters: Mapping[str, Any], extra: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the parameters that hold for every row which does not set them itself.

    Args:
        parameters: ``[parameters]`` of the settings.
        extra: ``[extra_parameters]``: parameters that the service knows and this table does not, sent unchanged.
        source: The config file's name, for messages.

    Raises:
        UsageError: A key is unknown or in the wrong table, or a value does not fit; the text names all of them.
    """
    checked, wrong = _read_all(parameters, extra)
    if wrong:
        raise UsageError("\n".join(f"{source}: {said}" for _, said in wrong))
    return checked


def wrong_parameters(parameters: Mapping[str, Any], extra: Mapping[str, Any]) -> list[tuple[Sequence[str], str]]:
    """List the problems of parameters, each with the names of its table and its key."""
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
        # the environment comes last, because it outranks the file
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
        import difflib  # noqa: PLC0415 - of use where something is wrong

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
    """Read a parameter's value; a text from the environment is parsed as a CSV cell."""
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
