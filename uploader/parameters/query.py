"""Merges a row's parameters over the config's, and encodes them for the query."""

from collections.abc import Mapping
from typing import Any

from uploader.parameters.table import TABLE
from uploader.parameters.text import encode


def query(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merge a row's parameters over the config's and encode them.

    Args:
        values: The row's parameters.
        defaults: The config's, as returned by ``check_config``.

    Returns:
        Names and texts, in the table's order, then those of ``[extra_parameters]``.
    """
    merged = {**defaults, **values}
    known = [(name, encode(merged[name])) for name in TABLE if name in merged]
    return known + [(name, encode(value)) for name, value in merged.items() if name not in TABLE]
