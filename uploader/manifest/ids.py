"""Checks of a conversationId: invisible characters, and marks of spreadsheets and programs."""

import re
import unicodedata

# invisible characters that Unicode classes as letters or marks
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

QUOTES = "'\"`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u00ab\u00bb"
_HIDDEN = frozenset(["Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"])
_WORDS = "nan|null|none|nil|nat|na|n/a|undefined|missing|empty|inf(?:inity)?|true|false|<na>|-+"
_LONGEST_WORD = 9
# no service's id has more characters; with 8 KB of them, gateways refuse the address
LONGEST = 500
_SPOILT = re.compile(
    r"""
    (?P<formula> =.* )
    | (?P<quote> b?[QUOTES].* | .*[QUOTES] )
    | (?P<word> (?i:WORDS) )
    | (?P<error> \#.* )
    | (?P<address> .*/.* | (?i:www\.).* )
    | (?P<scientific> [+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-][0-9]+ | [+-]?[0-9]*[.,][0-9]+[eE][0-9]+ )
    | (?P<percent> .*%[0-9A-Fa-f]{2}.* )
    | (?P<digits> \d+ )
    | (?P<decimal> [+-]?[0-9]+(?:[.,'\u2019][0-9]+)+ )
    | (?P<placeholder> [<{$%\[(].*[>}%\])] )
    """.replace("WORDS", _WORDS).replace("QUOTES", QUOTES),
    re.VERBOSE | re.DOTALL,
)
_NUMBER = "format the column as text, and take the ids from their source again"
_SPOILT_REMEDIES = {
    "formula": "this looks like a spreadsheet's formula and no id: write the id alone",
    "quote": "quotes or an apostrophe became a part of the id: write the id alone",
    "word": "this is a program's word for a value that is missing, and no id: write the id",
    "error": "this is a spreadsheet's error or mark, and no id: write the id",
    "address": "this looks like an address or a path and no id: write the id alone",
    "percent": "it is percent-encoded, as ids in addresses are: write it decoded",
    "digits": "its digits look like 0 to 9 and are others: write it in ASCII",
    "scientific": f"this looks like an id that a spreadsheet rounded to a number in scientific notation: {_NUMBER}",
    "decimal": f"this looks like an id that a program wrote as a number, with decimals or separators: {_NUMBER}",
    "placeholder": "this looks like a placeholder that was never filled in: write the id",
}


def problem(conversation_id: str) -> str:
    """Explain why no conversation can have this id; empty where one may."""
    if conversation_id in (".", ".."):
        return "no conversation has this id: write the id that the first request was answered with"
    unseen = describe_unseen(conversation_id)
    return f"{unseen}: take it out of the id" if unseen else ""


def spoilt(conversation_id: str) -> str:
    """Explain how a spreadsheet or a program most likely changed an id; empty where the id looks sound."""
    if len(conversation_id) > LONGEST:
        return f"this has {len(conversation_id)} characters, which no id has: write the id alone"
    is_plain = conversation_id.isascii() and conversation_id.isalnum()
    if is_plain and (len(conversation_id) > _LONGEST_WORD or conversation_id.isdigit()):
        return ""  # as most ids: none of the kinds has letters and digits alone, but for the words
    found = _SPOILT.fullmatch(conversation_id)
    return _SPOILT_REMEDIES[found.lastgroup or ""] if found else ""


def describe_unseen(text: str) -> str:
    """Name the first blank or invisible character of a text and its place; empty where there is none."""
    if text.isascii() and text.isprintable() and " " not in text:
        return ""
    for place, char in enumerate(text, start=1):
        if is_unseen(char):
            return f"{named(char)} stands at place {place}"
    return ""


def is_unseen(character: str) -> bool:
    """Return True where a character is blank, a control character or invisible."""
    if "!" <= character <= "~":
        return False
    return unicodedata.category(character) in _HIDDEN or _INVISIBLE.match(character) is not None


def named(character: str) -> str:
    """Format a character as its code point and its Unicode name."""
    if character == " ":
        return "a blank (U+0020)"
    if character == "\ufeff":
        return "a byte order mark (U+FEFF)"
    name = unicodedata.name(character, "a control character" if unicodedata.category(character) == "Cc" else "unnamed")
    return f"U+{ord(character):04X} ({name})"
