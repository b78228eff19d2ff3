"""The PUT's query parameters: types, rules and encoding."""

from uploader.parameters.config import check_config, wrong_parameters
from uploader.parameters.parameter import Encoding, Parameter
from uploader.parameters.query import query
from uploader.parameters.rules import Conflict, conflicts, doubts
from uploader.parameters.table import CONTENT_TYPES, NEEDS, TABLE
from uploader.parameters.text import check_whole, encode, read_json

__all__ = [
    "CONTENT_TYPES",
    "NEEDS",
    "TABLE",
    "Conflict",
    "Encoding",
    "Parameter",
    "check_config",
    "check_whole",
    "conflicts",
    "doubts",
    "encode",
    "query",
    "read_json",
    "wrong_parameters",
]
