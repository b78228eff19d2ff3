"""The rules of a row: a raw row in, a row or what is wrong with it out."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from uploader import audio, parameters
from uploader.manifest.columns import is_extra
from uploader.manifest.formats import RawRow
from uploader.model import AudioFacts, FileSignature, InvalidRow, Problem, Row
from uploader.policy import recordings
from uploader.policy.recordings import Severity

VALUE_MOST = 80
"""So much of a wrong value is told."""

_CONTROL = re.compile("[\0-\x1f]")

WasBegun = Callable[[str, Path], bool]
"""Whether an item of this conversation and path was begun before: its file may be gone by now."""
AudioProbe = Callable[[Path], AudioFacts]
"""Reads what a recording shows of itself."""


@dataclass(frozen=True)
class RowRules:
    """What a row is held against.

    ``folder`` is where relative paths start; ``confined`` says that no path may lead out of it. ``defaults``
    are the config's parameters, which hold where the row says nothing. ``summary_is_served``: the base URL is
    the one that makes summaries. ``look``: look for the audio files at all. ``probe`` reads what a recording
    shows of itself, which is then held against its row; None: it is not read.
    """

    folder: Path
    confined: bool
    was_begun: WasBegun
    defaults: Mapping[str, Any] = field(default_factory=dict)
    summary_is_served: bool = True
    look: bool = True
    probe: AudioProbe | None = None

    def check(self, raw: RawRow) -> Row | InvalidRow:
        """Hold a row against all rules: everything that is wrong with it is told."""
        problems = list(raw.problems)
        conversation_id = _text(raw, "conversationId", problems)
        audio_path = _text(raw, "audioPath", problems)
        _check_conversation_id(raw.line, conversation_id, problems)
        values, warnings = self._check_parameters(raw, problems)
        content_type = _check_content_type(raw, problems)
        path, signature = self._check_audio(raw.line, conversation_id, audio_path, problems)
        extras = {name: value for name, value in raw.values.items() if is_extra(name)}
        facts = self.probe(path) if self.probe is not None and path is not None and signature is not None else None
        hints: list[Problem] = []
        if facts is not None:
            found = recordings.findings(facts, audio_path, content_type, {**self.defaults, **values})
            _sort(raw.line, found, {Severity.ERROR: problems, Severity.WARNING: warnings, Severity.HINT: hints})
        if problems or path is None:
            given = {name: value for name, value in raw.values.items() if name in parameters.TABLE}
            given |= values | ({"contentType": raw.values["contentType"]} if "contentType" in raw.values else {})
            return InvalidRow(raw.line, conversation_id, audio_path, extras, problems, warnings, given)
        return Row(
            raw.line,
            conversation_id,
            audio_path,
            path,
            content_type,
            values,
            extras,
            signature,
            warnings=warnings,
            hints=hints,
            facts=facts,
        )

    @cached_property
    def _base(self) -> str:
        return os.path.abspath(self.folder)  # noqa: PTH100 - links and all, see _resolve

    def _check_parameters(self, raw: RawRow, problems: list[Problem]) -> tuple[dict[str, Any], list[Problem]]:
        """The row's parameters, and the warnings of those that will be sent."""
        values: dict[str, Any] = {}
        broken = set()
        for name, value in raw.values.items():
            parameter = parameters.TABLE.get(name)
            if parameter is None:
                continue
            try:
                values[name] = parameter.read_cell(value) if raw.is_text else parameter.check(value)
            except ValueError as error:
                broken.add(name)
                problems.append(Problem(raw.line, name, _shown(value), str(error)))
        merged = {**self.defaults, **values}
        if not merged:
            return values, []
        problems += _told(raw, merged, broken, parameters.conflicts(merged))
        doubts = parameters.doubts(merged, summary_is_served=self.summary_is_served)
        return values, _told(raw, merged, broken, doubts)

    def _check_audio(
        self, line: int, conversation_id: str, audio_path: str, problems: list[Problem]
    ) -> tuple[Path | None, FileSignature | None]:
        """Find the row's file; one that is gone is right where its item was begun before."""
        if not audio_path:
            return None, None  # told already
        path = None
        try:
            path = self._resolve(audio_path)
            return path, audio.signature(path) if self.look else None
        except ValueError as error:
            if path is not None and conversation_id and self.was_begun(conversation_id, path):
                return path, None  # people archive what was sent, and leave all kinds of things in its place
            problems.append(Problem(line, "audioPath", audio_path, str(error)))
            return None, None

    def _resolve(self, audio_path: str) -> Path:
        if "\0" in audio_path:
            raise ValueError("a path cannot hold a NUL character: correct the path")
        # the name that the manifest gives is kept, links and all; only the check looks behind them
        path = Path(os.path.normpath(os.path.join(self._base, audio_path)))  # noqa: PTH118 - costs less for a million
        if self.confined and not self._is_inside(path):
            raise ValueError(f"the path leads outside the audio root {self.folder}: move the file or the root")
        return path

    def _is_inside(self, path: Path) -> bool:
        if not self.look:
            return path.is_relative_to(self._base)  # no link is looked at
        return Path(os.path.realpath(path)).is_relative_to(self.folder.resolve())


def _sort(line: int, found: Sequence[recordings.Finding], lists: Mapping[Severity, list[Problem]]) -> None:
    """Put what was found of a recording with what was found of its row."""
    for one in found:
        lists[one.severity].append(Problem(line, one.column, one.value, one.remedy))


def _told(
    raw: RawRow, merged: Mapping[str, Any], broken: set[str], found: Iterator[parameters.Conflict]
) -> list[Problem]:
    """Conflicts by the row's own column; what a broken value may have caused is left out."""
    return [_problem(raw, merged, conflict) for conflict in found if broken.isdisjoint(conflict.names)]


def _problem(raw: RawRow, merged: Mapping[str, Any], conflict: parameters.Conflict) -> Problem:
    first = conflict.names[0]
    column = next((name for name in conflict.names if name in raw.values), first)
    value = _shown(raw.values.get(column, merged.get(column)))
    if column in raw.values and column != first:
        remedy = f"{first}, which the config's [parameters] set, does not go with this: {conflict.remedy}"
    else:
        remedy = conflict.remedy + ("" if column in raw.values else " (the config's [parameters] set it)")
    return Problem(raw.line, column, value, remedy)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_MOST else text[: VALUE_MOST - 1] + "…"


def _text(raw: RawRow, column: str, problems: list[Problem]) -> str:
    value = raw.values.get(column, "")
    if not isinstance(value, str):
        problems.append(Problem(raw.line, column, _shown(value), "write it as text, in quotes"))
        return ""
    if not value and not raw.problems:
        problems.append(Problem(raw.line, column, "", "it is empty: every row needs one"))
    return str(value)


def _check_conversation_id(line: int, conversation_id: str, problems: list[Problem]) -> None:
    if conversation_id in (".", "..") or _CONTROL.search(conversation_id):
        remedy = "no conversation has this id: write the id that the first request was answered with"
        problems.append(Problem(line, "conversationId", conversation_id, remedy))


def _check_content_type(raw: RawRow, problems: list[Problem]) -> str | None:
    value = raw.values.get("contentType")
    if value is None:
        return None
    if value not in parameters.CONTENT_TYPES:
        remedy = f"write one of {', '.join(parameters.CONTENT_TYPES)}, or leave it empty for other formats"
        problems.append(Problem(raw.line, "contentType", _shown(value), remedy))
        return None
    return str(value)
