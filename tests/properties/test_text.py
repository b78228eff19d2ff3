"""The edge for text from outside: whatever comes, ledger, files and terminals can hold what it returns."""

import json
import sqlite3
from base64 import b64encode
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from uploader.text import LEAST_SECRET_CHARACTERS, MASK, Sanitizer, printable, read_json, storable

# lone surrogates and NUL, too, which no UTF-8 and no database can hold
ANY_TEXT = st.text(st.characters(categories=None) | st.sampled_from("\x00\x1b\r\n\x85\u202e\ud83d\udcff"))
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=LEAST_SECRET_CHARACTERS)
JSON = st.recursive(
    ANY_TEXT | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_TEXT)
def test_a_storable_text_is_held_by_utf_8_and_by_a_database(text: str) -> None:
    """A stored text comes back unchanged, and only what cannot be stored is changed."""
    stored = storable(text)
    assert stored.encode().decode() == stored
    with sqlite3.connect(":memory:") as database:
        assert database.execute("SELECT ?", [stored]).fetchone() == (stored,)
    assert "\x00" not in stored
    assert storable(stored) == stored
    if not any(char == "\x00" or "\ud800" <= char <= "\udfff" for char in text):
        assert stored == text


@given(ANY_TEXT)
def test_a_printable_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    """No control character, no line end, no mark that turns the writing direction is left; words stay as they are."""
    shown = printable(text)
    forbidden = [char for char in shown if ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u200e\u200f\u061c"]
    assert not forbidden
    assert not [char for char in shown if "\u2028" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"]
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@given(JSON, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"]))
def test_json_is_read_in_any_of_its_encodings(value: object, encoding: str) -> None:
    """Whatever JSON holds comes back, the halves of characters that it escapes included."""
    assert read_json(json.dumps([value]).encode(encoding)) == [value]


@given(st.binary(max_size=6), st.integers(0, 6000))
def test_json_around_what_python_declines_is_read(raw: bytes, digits: int) -> None:
    """Bytes that are no text, and a number of thousands of digits, do not hide the members beside them."""
    kept = bytes(byte for byte in raw if byte >= 0x20 and byte not in b'"\\')
    value = read_json(b'{"jobId": "j-1", "note": "Z%sz", "n": 1%s}' % (kept, b"0" * digits))
    assert value["jobId"] == "j-1"
    assert value["note"].encode(errors="surrogateescape") == b"Z%sz" % kept
    assert str(value["n"]) == "1" + "0" * digits if digits > 4000 else value["n"] == 10**digits
    json.dumps(Sanitizer().json(value), ensure_ascii=False).encode()


@given(JSON, SECRETS)
def test_a_sanitized_value_can_be_stored_and_repeats_no_secret(value: object, secret: str) -> None:
    """Every string and every name of a member, however deep: stored as UTF-8, and the secret is in none."""
    sanitizer = Sanitizer(secret)
    report = json.dumps(sanitizer.json({"said": value, secret: [secret + "!"]}), ensure_ascii=False)
    report.encode()
    assert secret not in sanitizer.json({secret: ""})
    assert sanitizer.json([f"x{secret}y"]) == [f"x{MASK}y"]


@given(JSON, SECRETS, SECRETS, st.booleans())
def test_what_is_known_to_be_kept_is_kept(value: object, secret: str, another: str, ascii_alone: bool) -> None:
    """``keeps`` is True for no JSON text that ``json`` would change: no escape, no secret."""
    sanitizer = Sanitizer(secret)
    for message in (
        {"said": value},
        {"said": value, secret: 1},
        {"said": ["x", f"<{another}>"]},
        {"status": "completed"},
    ):
        raw = json.dumps(message, ensure_ascii=ascii_alone).encode(errors="surrogatepass")
        if sanitizer.keeps(raw, another):
            assert sanitizer.json(message, another) == message
    assert sanitizer.keeps(b'{"status": "completed"}') or secret in '{"status": "completed"}'


@given(ANY_TEXT, ANY_TEXT, SECRETS)
def test_a_secret_is_masked_in_the_forms_in_which_services_repeat_it(before: str, after: str, secret: str) -> None:
    """A secret is masked as it is, percent-encoded, and in base64."""
    sanitizer = Sanitizer(secret)
    encoded = b64encode(secret.encode()).decode().rstrip("=")
    for form in (secret, quote(secret, safe=""), encoded):
        result = sanitizer.text(f"{before} {form} {after}")
        assert MASK in result
        assert result.count(form) <= storable(before + after).count(form)


def test_half_a_surrogate_pair_is_shown_as_json_escapes_it() -> None:
    r"""Shown as ``\ud83d``; whole characters stay."""
    assert storable("caf\ud83d, \x00, 😀") == r"caf\ud83d, \u0000, 😀"
    assert printable("\x1b[31m\r\nred\x9b\u202e é 中") == r"\u001b[31m\u000d\u000ared\u009b\u202e é 中"
    assert printable("\U000e0041") == r"\udb40\udc41"


def test_a_secret_that_is_found_by_chance_is_none() -> None:
    """A secret such as `audio` does not hide ids and words."""
    assert Sanitizer("audio").text("an audio file") == "an audio file"


def test_the_longer_of_two_secrets_goes_whole() -> None:
    """Of a token that begins with another one no part is left."""
    sanitizer = Sanitizer("token-one")
    sanitizer.add("token-one-and-more")
    assert sanitizer.text("bad token-one-and-more, token-one") == f"bad {MASK}, {MASK}"
