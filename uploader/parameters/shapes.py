"""The types of put-audio.md, for pydantic to check and describe."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Switch = bool
# text that is not empty; an unset parameter is left out, not sent empty
Text = Annotated[str, Field(min_length=1)]


def _reachable(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or (parts.port is not None and parts.port <= 0):
        raise ValueError("no host")
    return url


def _whole(value: Any) -> Any:
    """Convert a whole float into an int: table programs write 2.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _each_once(channels: list["Channel"]) -> list["Channel"]:
    numbers = [channel.channel for channel in channels]
    if len(set(numbers)) < len(numbers):
        raise ValueError("a channel is named twice")
    return channels


class Speaker(BaseModel):
    """The speaker on a channel (put-audio.md, Channel Metadata: both members are optional, there are no others)."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(description="name of the speaker")] = ""
    email: Annotated[str, Field(description="e-mail address of the speaker")] = ""


class Channel(BaseModel):
    """A channel of the recording and its speaker (put-audio.md, Channel Metadata)."""

    model_config = ConfigDict(extra="forbid")

    channel: Annotated[int, Field(ge=1, description="the channel's number in the audio file")]
    speaker: Speaker


class Entity(BaseModel):
    """A custom entity (put-audio.md, Custom Entity). Other members are the service's business, and are sent."""

    model_config = ConfigDict(extra="allow")

    customType: Text  # noqa: N815 - the service's own name
    text: Text


class Tracker(BaseModel):
    """A tracker (put-audio.md, Query Parameters). Other members, such as an id, are sent unchanged."""

    model_config = ConfigDict(extra="allow")

    name: Text
    vocabulary: Annotated[list[Text], Field(min_length=1)]


Url = Annotated[str, Field(pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]+[^\s]*$"), AfterValidator(_reachable)]
LanguageCode = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Confidence = Annotated[float, Field(ge=0.5, le=1.0, allow_inf_nan=False)]
Mode = Literal["phone", "default"]
Words = list[Text]
Entities = list[Entity]
Trackers = list[Tracker]
Channels = Annotated[list[Channel], AfterValidator(_each_once)]
# a String in the documentation and a number in many manifests: both are accepted, and sent alike
SpeakerCount = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")],
    BeforeValidator(_whole),
    AfterValidator(int),
]
