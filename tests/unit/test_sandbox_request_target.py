"""The sandbox's reading of a request's target: percent-encoded UTF-8, or a refusal that says what is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.sandbox import request_target

PATH = "/v1/process/audio/c"


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", ()),
        ("?", ()),
        ("?a=1&b=2", (("a", "1"), ("b", "2"))),
        ("?a=1&&b=2&", (("a", "1"), ("b", "2"))),
        ("?a=", (("a", ""),)),
        ("?a=b=c", (("a", "b=c"),)),
        ("?a=x+y%20z%2B", (("a", "x y z+"),)),
        ("?a=%C3%A4%F0%9F%98%80", (("a", "ä😀"),)),
        ("?a=~-._!$'()*,;:@/?", (("a", "~-._!$'()*,;:@/?"),)),
        ("?%61=%26%3D%23", (("a", "&=#"),)),
    ],
)
def test_a_query_is_read_as_it_was_meant(query: str, pairs: request_target.Pairs) -> None:
    """A query that RFC 3986 allows is read: each name and value decoded once, a plus as a space."""
    request_target.check(PATH + query)
    assert request_target.query(PATH + query) == pairs


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        *((f"?a={character}", f"'{character}' in the URL is not percent-encoded") for character in "[]{}|^`<>#é漢"),
        ('?a="', "is not percent-encoded"),
        ("?a=\\", "is not percent-encoded"),
        ("?a= b", "is not percent-encoded"),
        ("?a=\udcc3\udca9", "is not percent-encoded"),
        ("?a=100%", "write %25"),
        ("?a=%4", "write %25"),
        ("?a=%zz", "write %25"),
        ("?a=%u00e9", "write %25"),
        ("?a=%E9", "no UTF-8"),
        ("?a=%ED%A0%BD", "no UTF-8"),
        ("%E9?a=1", "no UTF-8"),
        ("?name", "'name' in the query is no key=value"),
        ("?a=1&name", "'name' in the query is no key=value"),
        ("?=1", "'=1' in the query is no key=value"),
        ("?%7B%22name%22:%20%22Meeting%22%7D", """'{"name": "Meeting"}' in the query is no key=value"""),
    ],
)
def test_a_wrong_encoding_is_refused(query: str, reason: str) -> None:
    """Raw characters, broken escapes, other charsets and nameless blobs do not pass unseen."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        request_target.check(PATH + query)


@given(st.text(st.characters(max_codepoint=255)).map(lambda text: text.encode("latin-1")))
def test_whatever_comes_can_be_journalled(raw: bytes) -> None:
    """Any bytes at all give names and values that can be written as UTF-8."""
    pairs = request_target.query("?" + raw.decode("utf-8", "surrogateescape"))
    assert all((name + value).encode() is not None for name, value in pairs)
