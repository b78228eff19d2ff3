"""Puts a row's parameters over the config's, and writes them as the query carries them."""

from collections.abc import Mapping
from typing import Any

from uploader.parameters.table import TABLE
from uploader.parameters.text import encode


def query(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Put a row's parameters over the config's and encode them.

    Args:
        values: The row's own.
        defaults: The config's, as ``check_config`` gave them.

    Returns:
        Names and texts: the table's in its order, then what ``[extra_parameters]`` adds.
    """
    merged = {**defaults, **values}
    known = [(name, encode(merged[name])) for name in TABLE if name in merged]
    return known + [(name, encode(value)) for name, value in merged.items() if name not in TABLE]
