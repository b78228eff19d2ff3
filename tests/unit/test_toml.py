"""TOML of people is read, or refused in words: never a fault, whatever its numbers and its nesting."""

import pytest

from uploader import toml

DIGITS = "9" * 5000


def test_plain_toml_is_read() -> None:
    """Tables, lists and numbers, as the standard library reads them."""
    assert toml.read("a = [1, 2.5]\n[b.c]\nd = 'x'\n") == {"a": [1, 2.5], "b": {"c": {"d": "x"}}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = ", "no TOML: "),
        (f"a = {DIGITS}", "too many digits"),
        (f"a = -{DIGITS}", "too many digits"),
        (f"a = [[{{b = 0x{DIGITS}}}]]", "too many digits"),
        (f"a = {'[' * 10_000}{']' * 10_000}", "nested too deep"),
        (f"a = {'[' * 100}{']' * 100}", "nested deeper than 64 levels"),
        (f"[{'.'.join('a' * 10_000)}]\nb = 1", "nested deeper than 64 levels"),
        (f"{'.'.join('a' * 3000)} = 1", "nested deeper than 64 levels"),
    ],
)
def test_numbers_and_nesting_without_end_are_refused(text: str, told: str) -> None:
    """By a ValueError that says which."""
    with pytest.raises(ValueError, match=told):
        toml.read(text)
