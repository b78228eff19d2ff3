"""The settings that stand in tables of their own."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from uploader.model import Order


class Lanes(BaseModel):
    """``[lanes]``: what trouble in a conversation does to the rest of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_trouble: Literal["hold", "continue"] = Field(
        "hold",
        description="what an item that failed, is refused or in doubt does to the rest of its lane: hold it "
        "until a person has settled it, or continue without it",
    )

    @property
    def hold(self) -> bool:
        """Whether trouble holds the rest of a lane."""
        return self.on_trouble == "hold"


class Replies(BaseModel):
    """``[replies]``: what the operator vouches for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proves_not_appended: tuple[Literal[500, 503], ...] = Field(
        (),
        description="statuses that prove that nothing was appended, so that the item is tried again; your "
        "own promise: 500 and 503 are in doubt otherwise",
    )


class Doubt(BaseModel):
    """``[doubt]``: what evidence is kept and taken for items in doubt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    look_before: bool = Field(
        False,
        description="look at the conversation before every attempt (one GET an item), so that `uploader resolve "
        "--look` can compare",
    )
    settle: Literal["person", "look"] = Field(
        "person",
        description="who settles doubt: a person alone, or also `uploader resolve --look`, where what it shows proves "
        "the append",
    )

    unanswered: int = Field(
        5,
        ge=1,
        description="uploads that may wait for their answer at once: so many items at most are in doubt when a gateway "
        "dies; where answers take seconds, a higher number keeps the account full",
    )


class Jobs(BaseModel):
    """``[jobs]``: how live jobs are followed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polls_per_second: float = Field(
        30.0, gt=0, le=1000, description="status requests per second, for the whole account"
    )


class Insights(BaseModel):
    """``[insights]``: what `uploader insights` fetches, and how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: float = Field(
        5.0, gt=0, le=1000, description="requests per second, for all conversations together"
    )
    only: tuple[str, ...] = Field((), description="the parts that are fetched; none named: all of them")


class Schedule(BaseModel):
    """``[schedule]``: which conversation goes first, and what a plan assumes as long as nothing was seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Order = Field(
        Order.LONGEST_LANE_FIRST,
        description="which of the conversations that may go goes first: the one with the most work left, as far as "
        "finished jobs have shown what a job takes (else by seconds of audio), so that the batch ends early "
        "(longest-lane-first), or the one that stands first in the manifest (manifest)",
    )

    job_seconds_per_audio_second: float = Field(
        0.5,
        gt=0,
        le=1000,
        description="what `uploader plan` takes a job to last for a second of audio, until the ledger has seen some",
    )
    audio_bytes_per_second: float = Field(
        16000.0,
        gt=0,
        description="what `uploader plan` takes a second of audio to hold where no file's length is known, in bytes",
    )
