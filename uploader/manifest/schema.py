"""The JSON Schema of a manifest row, for editors and pipelines."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

from uploader import parameters
from uploader.manifest.columns import EXTRA_PREFIX

# excludes the commonest blanks and invisible characters; a plan checks all of them
_ID_PATTERN = r"^(?!\.{1,2}$)[^\u0000-\u0020\u007f-\u00a0\u00ad\u200b-\u200f\u2028-\u202e\ufeff]+$"

_OWN: dict[str, Any] = {
    "conversationId": (
        str,
        Field(
            description="the conversation to append to",
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ),
    "audioPath": (
        str,
        Field(description="the audio file", json_schema_extra={"pattern": r"^[^\u0000]+$"}),
    ),
    "contentType": (
        Literal[parameters.CONTENT_TYPES] | None,
        Field(
            None, description="the media type of the audio file; empty: detected from the file, or left to the service"
        ),
    ),
    "account": (
        str | None,
        Field(None, description="the account, by its name in the config file; empty: the one above all tables"),
    ),
}


class _Untitled(GenerateJsonSchema):
    """A schema generator without titles: the names are the service's, and a title would spell them differently."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def row_schema(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Generate the JSON Schema (draft 2020-12) of one line of a JSON Lines manifest; null means not set.

    Args:
        defaults: The config's parameters, which a row need not set.
    """
    fields: dict[str, Any] = {
        parameter.name: (parameter.type | None, Field(None, description=parameter.meaning))
        for parameter in parameters.TABLE.values()
    }
    model = create_model("Row", __config__=ConfigDict(extra="forbid", title="manifest row"), **_OWN, **fields)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(schema_generator=_Untitled),
        "patternProperties": {f"^{EXTRA_PREFIX}.": {}},
        "allOf": [_need(name, needed, defaults) for name, needed in parameters.NEEDS.items()],
    }


def _need(name: str, needed: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Generate the rule for a parameter that works only where another is true, in the row or in the config."""
    is_set = {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
    if defaults.get(needed) is True:
        allowed: dict[str, Any] = {"properties": {needed: {"enum": [True, None]}}}
    else:
        allowed = {"required": [needed], "properties": {needed: {"const": True}}}
    if name in defaults:
        return allowed
    return {"if": is_set, "then": allowed}
