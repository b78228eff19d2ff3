"""The PUT's query parameters: their types, rules and encoding."""

from typing import Annotated, Any

import pytest
from pydantic import Field

from uploader.errors import UsageError
from uploader.parameters import TABLE, Parameter, check_defaults, query

NUMBER = Parameter("number", Annotated[float, Field(ge=0.5, le=1.0)], "a number", "write a number from 0.5 to 1.0")
WORDS = Parameter("words", list[str], "words", 'write a list: ["…"]')
SWITCH = Parameter("switch", bool, "a switch", "write true or false")


@pytest.mark.parametrize(
    ("parameter", "cell", "value"),
    [
        (TABLE["name"], "17", "17"),
        (TABLE["name"], '"quoted"', '"quoted"'),
        (NUMBER, "0.75", 0.75),
        (NUMBER, "1", 1.0),
        (WORDS, '["a", "b"]', ["a", "b"]),
        (SWITCH, "true", True),
    ],
)
def test_a_cell_is_read_by_its_parameters_type(parameter: Parameter, cell: str, value: Any) -> None:
    """Text is taken as it is; everything else is JSON text in its cell."""
    assert parameter.parse(cell) == value


@pytest.mark.parametrize(("parameter", "value"), [(NUMBER, 0.5), (WORDS, ["a"]), (SWITCH, False)])
def test_a_native_value_is_taken(parameter: Parameter, value: Any) -> None:
    """JSON Lines and TOML have the types themselves."""
    assert parameter.parse(value) == value


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (TABLE["name"], 7),
        (TABLE["name"], None),
        (NUMBER, "0.4"),
        (NUMBER, 1.1),
        (NUMBER, "many"),
        (NUMBER, True),
        (WORDS, "a, b"),
        (WORDS, "[1]"),
        (SWITCH, "yes"),
        (SWITCH, 1),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_the_remedy(parameter: Parameter, value: Any) -> None:
    """Wrong types and figures out of range are refused in the parameter's own words."""
    with pytest.raises(ValueError, match=r"^write ") as refused:
        parameter.parse(value)
    assert str(refused.value) == parameter.remedy


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (True, "true"),
        (0.6, "0.6"),
        (["Ä", "b"], '["Ä","b"]'),
        ([{"channel": 1, "speaker": {"name": "R"}}], '[{"channel":1,"speaker":{"name":"R"}}]'),
    ],
)
def test_a_value_is_encoded_as_the_query_carries_it(value: Any, text: str) -> None:
    """Booleans are true and false; a list or an object is compact JSON text in its own parameter."""
    assert Parameter.encode(value) == text


def test_a_rows_value_outranks_the_configs() -> None:
    """A parameter's value is the row's, else the config's, else it is not sent."""
    assert query({"name": "row"}, {"name": "config"}) == [("name", "row")]
    assert query({}, {"name": "config"}) == [("name", "config")]
    assert query({}, {}) == []


def test_the_configs_parameters_are_checked() -> None:
    """[parameters] takes what the manifest's columns take."""
    assert check_defaults({"name": "Q1"}, "f.toml") == {"name": "Q1"}


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"nam": "Q1"}, ["f.toml", "[parameters] nam", "no such parameter", "name"]),
        ({"name": 7}, ["f.toml", "[parameters] name", "7", "write the meeting's name as text"]),
    ],
)
def test_a_wrong_parameter_of_the_config_is_told(defaults: dict[str, Any], words: list[str]) -> None:
    """An unknown key and a wrong value name file, key, value and remedy."""
    with pytest.raises(UsageError) as refused:
        check_defaults(defaults, "f.toml")
    for word in words:
        assert word in str(refused.value)
