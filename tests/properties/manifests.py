"""Manifests to be drawn: their texts, ids and parameters."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from uploader.manifest import Format, Manifest
from uploader.manifest.ids import problem
from uploader.model import InvalidRow, Row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    lambda cell: not problem(cell)
)
SWITCH = st.booleans()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def _with_other_members(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw objects with these members, and others that are the service's business."""
    others = st.dictionaries(TEXT.filter(lambda name: name not in members), JSON, max_size=2)
    return st.builds(lambda other, own: {**other, **own}, others, st.fixed_dictionaries(members))


SPEAKER = st.fixed_dictionaries({}, optional={"name": TEXT, "email": TEXT})
CHANNEL = st.fixed_dictionaries({"channel": st.integers(min_value=1), "speaker": SPEAKER})

# a strategy for each parameter's values
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": WORD,
    "webhookUrl": st.builds("https://example.com/{}".format, st.text("ab/?&=#%+;", max_size=12)),
    "customVocabulary": st.lists(WORD, max_size=4),
    "confidenceThreshold": st.floats(0.5, 1.0),
    "detectPhrases": SWITCH,
    "entities": st.lists(_with_other_members(customType=WORD, text=WORD), max_size=3),
    "detectEntities": SWITCH,
    "enableSeparateRecognitionPerChannel": st.just(True),
    "channelMetadata": st.lists(CHANNEL, max_size=3, unique_by=lambda cell: cell["channel"]),
    "languageCode": st.from_regex(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}", fullmatch=True),
    "mode": st.sampled_from(["phone", "default"]),
    "trackers": st.lists(_with_other_members(name=WORD, vocabulary=st.lists(WORD, min_size=1, max_size=3)), max_size=3),
    "enableAllTrackers": SWITCH,
    "enableSummary": SWITCH,
    "enableSpeakerDiarization": st.just(True),
    "diarizationSpeakerCount": st.integers(1, 10**9),
}


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the parameters of one row, with the switches that they need."""
    needed = {"channelMetadata": "enableSeparateRecognitionPerChannel"}
    needed["diarizationSpeakerCount"] = "enableSpeakerDiarization"
    names = draw(st.sets(st.sampled_from(sorted(VALUES))))
    names |= {needed[name] for name in names & needed.keys()}
    return {name: draw(VALUES[name]) for name in sorted(names)}


def manifest_at(path: Path, form: Format, delimiter: str = ",") -> Manifest:
    """Return a manifest whose audio files are not looked at."""
    return Manifest(path, "m", form, path.parent, False, lambda *_: False, delimiter=delimiter, check_files=False)


def read(path: Path, form: Format, delimiter: str = ",") -> list[Row | InvalidRow]:
    """Return the rows of a manifest, its audio files not looked at."""
    return list(manifest_at(path, form, delimiter).read())
