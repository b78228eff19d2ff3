"""Reads a manifest, CSV or JSON Lines, into rows and problems."""

from uploader.manifest.files import ENDINGS, SPREADSHEETS, Format, check_file, format_of
from uploader.manifest.ids import spoilt
from uploader.manifest.reading import Manifest
from uploader.manifest.rules import Examine, WasBegun

__all__ = [
    "ENDINGS",
    "SPREADSHEETS",
    "Examine",
    "Format",
    "Manifest",
    "WasBegun",
    "check_file",
    "format_of",
    "spoilt",
]
