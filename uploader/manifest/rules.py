"""The rules of a row: turns a raw row into a row, or into an invalid row with its problems."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

from uploader import audio, parameters
from uploader.manifest.columns import REQUIRED, is_extra
from uploader.manifest.formats import RawRow
from uploader.manifest.ids import LONGEST, spoilt
from uploader.manifest.ids import problem as id_problem
from uploader.manifest.paths import likely
from uploader.model import NOTHING, AudioFacts, FileSignature, Hint, InvalidRow, Problem, Row
from uploader.policy import recordings
from uploader.policy.billing import SEPARATE
from uploader.policy.recordings import Severity
from uploader.secrets import without_login
from uploader.settings import DEFAULT_ACCOUNT
from uploader.urls import check, is_remote, shown

# the most characters of a wrong value in a message
VALUE_MOST = 80

_PLAIN_ID = re.compile("[0-9A-Za-z_-]+")
# the size of each cache of checked values
_KEPT = 1000
# equals no cell
_NO_ID = object()

# tells of a conversation, a path and an account that an item of them was begun, so that its file may be gone
WasBegun = Callable[[str, str, str | None], bool]


class Examine(Protocol):
    """Reads a file's signature and audio facts in one opening."""

    def __call__(self, path: str, *, follow: bool = True) -> tuple[FileSignature, AudioFacts]:
        """See ``audio.examine``."""
        ...


class _Usual(NamedTuple):
    """A row's checked content type and parameters, cached where they have no problem and no warning."""

    parameters: Mapping[str, Any]
    content_type: str | None
    merged: Mapping[str, Any]
    # the hints of recordings of rows like this, None where there is more than a hint; by the facts they depend on
    hints: dict[Any, tuple[Hint, ...] | None]
    account: str | None


class _FileFacts(NamedTuple):
    """A file's signature and audio facts; ``problem`` explains why it cannot be sent."""

    signature: FileSignature | None
    facts: AudioFacts | None
    problem: str = ""


_UNSEEN = _FileFacts(None, None)


@dataclass(frozen=True)
class RowRules:
    """The rules that a row is checked against.

    ``folder`` is the base of relative paths; with ``confined`` no path may lead out of it. ``defaults`` are the
    config's parameters, which hold where the row sets none. ``summary_is_served``: the base URL is the one that makes
    summaries. ``check_files``: look for the audio files. ``examine`` reads a recording's facts, which are checked
    against the row; None: they are not read. ``remote`` examines remote audio; None: it is not looked at. ``accounts``:
    the names that rows may have beside the default one.
    """

    folder: Path
    confined: bool
    was_begun: WasBegun
    defaults: Mapping[str, Any] = field(default_factory=dict)
    summary_is_served: bool = True
    check_files: bool = True
    examine: Examine | None = None
    remote: audio.RemoteFiles | None = None
    accounts: Collection[str] = ()
    _usual: dict[Any, _Usual | None] = field(default_factory=dict, init=False, repr=False)
    _hints: dict[Any, dict[Any, tuple[Hint, ...] | None]] = field(default_factory=dict, init=False, repr=False)
    _inside: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    def check(self, raw: RawRow) -> Row | InvalidRow:
        """Check a row against all rules, and return it with all findings."""
        return self.check_all([raw])[0]

    def check_all(self, raws: Iterable[RawRow]) -> list[Row | InvalidRow]:
        """Check rows against all rules, and return them with all findings.

        Most rows have no finding and take a quick way, at a fraction of the cost of ``full``. Any doubt falls back on
        ``full``, which gives the same answer for every row.
        """
        checked: list[Row | InvalidRow] = []
        examine, follow = (self.examine, not self.confined) if self.check_files else (_unseen, True)
        plain_id: object = _NO_ID
        for raw in raws:
            line, values, problems, _ = raw
            conversation_id: Any = values.get("conversationId")
            audio_path = values.get("audioPath")
            # most rows have the conversation of the row before
            is_plain = not problems and (conversation_id == plain_id or _is_plain(conversation_id))
            path = self._plain_path(audio_path) if is_plain else None
            usual = self._bare if len(values) == len(REQUIRED) else self._usual_of(raw)
            if path is None or usual is None or examine is None:
                checked.append(self.full(raw))
                continue
            plain_id = conversation_id
            try:
                signature, facts = examine(path, follow=follow)
            except OSError:
                checked.append(self.full(raw))
                continue
            except ValueError as error:
                if not self.was_begun(conversation_id, path, usual.account):
                    checked.append(self.full(raw, _FileFacts(None, None, str(error))))
                    continue
                signature, facts = None, None  # sent files get archived
            hints = self._hints_of(facts, path, usual) if facts is not None else ()
            if hints is None:
                checked.append(self.full(raw, _FileFacts(signature, facts)))
                continue
            extras = {name: value for name, value in values.items() if is_extra(name)} if len(values) > 2 else NOTHING
            given = (line, conversation_id, audio_path, path, usual.content_type, usual.parameters, extras)
            # a third of the cost of Row(...), for a million rows
            checked.append(tuple.__new__(Row, (*given, signature, (), hints, facts, usual.account)))
        return checked

    def warm(self, raw: RawRow) -> None:
        """Examine a row's file for the sake of the kernel's cache alone: ``check`` then need not wait for the disk."""
        audio_path = raw.values.get("audioPath")
        if self.begin_remote([raw]):
            return
        if self.examine is not None and _is_plain_path(audio_path):
            with suppress(OSError, ValueError):
                self.examine(self._resolve(audio_path), follow=not self.confined)

    def begin_remote(self, raws: Iterable[RawRow]) -> bool:
        """Begin to examine the remote audio of rows, so that many are asked for at once; return True where some is."""
        paths = [raw.values.get("audioPath") for raw in raws]
        addresses = [path for path in paths if type(path) is str and "://" in path and is_remote(path)]
        if self.remote is not None and self.check_files and not self.confined:
            for address in addresses:
                self.remote.begin(address)
        return bool(addresses)

    def full(self, raw: RawRow, seen: _FileFacts | None = None) -> Row | InvalidRow:
        """Check any row against all rules; ``seen``: facts of its file that were read already."""
        problems = list(raw.problems)
        conversation_id = _text(raw, "conversationId", problems)
        audio_path = _text(raw, "audioPath", problems)
        if remedy := id_problem(conversation_id):
            problems.append(Problem(raw.line, "conversationId", conversation_id, remedy))
        values, warnings = self._check_parameters(raw, problems)
        content_type = _check_content_type(raw, problems)
        account = self._check_account(raw, problems)
        path, signature, facts = self._check_audio(raw.line, conversation_id, audio_path, account, seen, problems)
        if remedy := spoilt(conversation_id):
            warnings.append(Problem(raw.line, "conversationId", conversation_id, remedy))
        extras = {name: value for name, value in raw.values.items() if is_extra(name)}
        hints: tuple[Hint, ...] = ()
        if facts is not None:
            found = recordings.findings(facts, shown(audio_path), content_type, {**self.defaults, **values})
            _sort(raw.line, found, {Severity.ERROR: problems, Severity.WARNING: warnings})
            hints = _hints_in(found)
        if problems or path is None:
            given = {name: value for name, value in raw.values.items() if name in parameters.TABLE}
            given |= values | {name: raw.values[name] for name in ("contentType", "account") if name in raw.values}
            return InvalidRow(raw.line, conversation_id, audio_path, extras, problems, warnings, given, account)
        return Row(
            raw.line,
            conversation_id,
            audio_path,
            path,
            content_type,
            values,
            extras,
            signature,
            warnings=tuple(warnings),
            hints=hints,
            facts=facts,
            account=account,
        )

    @cached_property
    def _base(self) -> str:
        return os.path.abspath(self.folder)  # noqa: PTH100 - links and all, see _resolve

    @cached_property
    def _prefix(self) -> str:
        return self._base if self._base.endswith("/") else self._base + "/"

    @cached_property
    def _bare(self) -> _Usual | None:
        """The content type and parameters of a row that sets none."""
        return self._read_usual(RawRow(0, {}))

    def _usual_of(self, raw: RawRow) -> _Usual | None:
        """Return a row's parameters by a cache; None where they have a finding."""
        if not raw.is_text:
            return self._read_usual(raw)
        cells = tuple([cell for cell in raw.values.items() if cell[0] not in REQUIRED and not is_extra(cell[0])])
        if cells not in self._usual:
            if len(self._usual) >= _KEPT:
                self._usual.clear()
            self._usual[cells] = self._read_usual(raw)
        return self._usual[cells]

    def _read_usual(self, raw: RawRow) -> _Usual | None:
        problems: list[Problem] = []
        values, warnings = self._check_parameters(raw, problems)
        content_type = _check_content_type(raw, problems)
        account = self._check_account(raw, problems)
        if problems or warnings:
            return None
        merged = {**self.defaults, **values}
        metadata = json.dumps(merged.get("channelMetadata"))
        kind = (content_type, merged.get("mode"), merged.get(SEPARATE), metadata)
        if kind not in self._hints and len(self._hints) >= _KEPT:
            self._hints.clear()
        return _Usual(values or NOTHING, content_type, merged, self._hints.setdefault(kind, {}), account)

    def _check_account(self, raw: RawRow, problems: list[Problem]) -> str | None:
        """Return the account that a row names: None where it names none, empty where there is no such account."""
        value = raw.values.get("account")
        if value is None or value == DEFAULT_ACCOUNT:
            return None
        if isinstance(value, str) and value in self.accounts:
            return value
        known = f"write one of {', '.join([*self.accounts, DEFAULT_ACCOUNT])}, or" if self.accounts else "it has none:"
        remedy = f"the settings have no such account: {known} add [accounts.NAME] to the config file"
        problems.append(Problem(raw.line, "account", _shown(value), remedy))
        return ""

    def _read_facts(self, conversation_id: str, path: str, account: str | None, *, follow: bool = True) -> _FileFacts:
        """Read a row's file facts; a file that is gone is valid where its item was begun before.

        Raises:
            OSError: The file is a link, and links are not to be followed.
        """
        if not self.check_files:
            return _UNSEEN
        try:
            if is_remote(path):
                return _UNSEEN if self.remote is None else _FileFacts(*self.remote.examine(path))
            if self.examine is None:
                return _FileFacts(audio.signature(path), None)
            return tuple.__new__(_FileFacts, (*self.examine(path, follow=follow), ""))
        except ValueError as error:
            if conversation_id and self.was_begun(conversation_id, path, account):
                return _UNSEEN  # sent files get archived, with all kinds of things in their place
            return _FileFacts(None, None, str(error))

    def _hints_of(self, facts: AudioFacts, path: str, usual: _Usual) -> tuple[Hint, ...] | None:
        """Return a recording's hints by a cache; None where there is more than a hint."""
        seconds, known = facts[1], usual.hints
        is_long = seconds is not None and seconds > recordings.LONGEST_SECONDS
        # a name that begins with the dot is a hidden file's, which has no suffix
        kind = (facts[0], facts[2:], is_long, path[path.rfind(".") - 1 :])
        if kind in known:
            return known[kind]
        found = recordings.findings(facts, path, usual.content_type, usual.merged)
        hints = _hints_in(found)
        if len(known) >= _KEPT:
            known.clear()
        known[kind] = told = hints if len(hints) == len(found) else None
        return told

    def _plain_path(self, audio_path: Any) -> str | None:
        """Resolve a path that has no problem, apart from the existence of its file; None for any other."""
        if not _is_plain_path(audio_path):
            return None
        path = os.path.normpath(audio_path if audio_path[0] == "/" else self._prefix + audio_path)
        return None if self.confined and not self._is_plainly_inside(path) else path

    def _is_plainly_inside(self, path: str) -> bool:
        """Return True where a path's folder lies in the audio root, by a cache."""
        if not self.check_files:
            return path.startswith(self._prefix)
        folder = path.rpartition("/")[0]
        if folder not in self._inside:
            if len(self._inside) >= _KEPT:
                self._inside.clear()
            self._inside[folder] = self._is_inside(folder)
        return self._inside[folder]

    def _check_parameters(self, raw: RawRow, problems: list[Problem]) -> tuple[dict[str, Any], list[Problem]]:
        """Check a row's parameters; return their values and warnings."""
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
        problems += _conflict_problems(raw, merged, broken, parameters.conflicts(merged))
        doubts = parameters.doubts(merged, summary_is_served=self.summary_is_served)
        return values, _conflict_problems(raw, merged, broken, doubts)

    def _check_audio(
        self,
        line: int,
        conversation_id: str,
        audio_path: str,
        account: str | None,
        seen: _FileFacts | None,
        problems: list[Problem],
    ) -> tuple[str | None, FileSignature | None, AudioFacts | None]:
        """Find a row's file, and read its facts unless they were read already."""
        if not audio_path:
            return None, None, None  # the row has this problem already
        path = None
        try:
            path = self._resolve(audio_path)
            seen = seen or self._read_facts(conversation_id, path, account)
            problem = seen.problem
        except ValueError as error:
            problem = str(error)
        if path is None or seen is None or problem:
            if path is not None and not is_remote(path) and not os.path.lexists(path):
                problem = "; ".join(filter(None, (problem, likely(audio_path, self._resolve))))
            problems.append(Problem(line, "audioPath", without_login(shown(audio_path)), problem))
            return None, None, None
        return path, seen.signature, seen.facts

    def _resolve(self, audio_path: str) -> str:
        if "\0" in audio_path:
            raise ValueError("a path cannot hold a NUL character: correct the path")
        if is_remote(audio_path):
            return self._resolve_remote(audio_path)
        # the manifest's path is kept with its links; only the check resolves them
        path = os.path.normpath(os.path.join(self._base, audio_path))  # noqa: PTH118 - costs less for a million
        if self.confined and not self._is_inside(path):
            raise ValueError(f"the path leads outside the audio root {self.folder}: move the file or the root")
        return path

    def _resolve_remote(self, address: str) -> str:
        if self.confined:
            raise ValueError(
                f"remote audio lies outside the audio root {self.folder}: leave --audio-root out or copy the file there"
            )
        check(address)
        return address

    def _is_inside(self, path: str) -> bool:
        if not self.check_files:
            return Path(path).is_relative_to(self._base)  # no link is looked at
        return Path(os.path.realpath(path)).is_relative_to(self.folder.resolve())


def _unseen(path: str, *, follow: bool = True) -> tuple[None, None]:  # noqa: ARG001 - as Examine
    """Read nothing of a file: none is looked for."""
    return None, None


def _is_plain(conversation_id: Any) -> TypeGuard[str]:
    """Return True where an id has no problem and no warning."""
    if type(conversation_id) is not str or not conversation_id.isascii() or len(conversation_id) > LONGEST:
        return False
    # most ids are numbers, which nothing is to be said of
    return conversation_id.isdigit() or (
        _PLAIN_ID.fullmatch(conversation_id) is not None and not spoilt(conversation_id)
    )


def _is_plain_path(audio_path: Any) -> TypeGuard[str]:
    """Return True where this is a path of this machine without a problem, apart from the existence of its file."""
    return type(audio_path) is str and audio_path != "" and audio_path.isprintable() and "://" not in audio_path


def _hints_in(found: Sequence[recordings.Finding]) -> tuple[Hint, ...]:
    hints = [finding for finding in found if finding.severity is Severity.HINT]
    return tuple([(hint.column, hint.value, hint.remedy) for hint in hints])


def _sort(line: int, found: Sequence[recordings.Finding], lists: Mapping[Severity, list[Problem]]) -> None:
    """Add a recording's findings to its row's, by severity."""
    for finding in found:
        if finding.severity in lists:
            lists[finding.severity].append(Problem(line, finding.column, finding.value, finding.remedy))


def _conflict_problems(
    raw: RawRow, merged: Mapping[str, Any], broken: set[str], found: Iterator[parameters.Conflict]
) -> list[Problem]:
    """Convert conflicts into problems of the row's columns, without those that a broken value may cause."""
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
    text = without_login(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= VALUE_MOST else text[: VALUE_MOST - 1] + "…"


def _text(raw: RawRow, column: str, problems: list[Problem]) -> str:
    value = raw.values.get(column, "")
    if not isinstance(value, str):
        problems.append(Problem(raw.line, column, _shown(value), "write it as text, in quotes"))
        return ""
    # a column that CSV does not have is a problem of its header
    if not value and not raw.problems and (column in raw.values or not raw.is_text):
        problems.append(Problem(raw.line, column, "", "it is empty: every row needs one"))
    return str(value)


def _check_content_type(raw: RawRow, problems: list[Problem]) -> str | None:
    value = raw.values.get("contentType")
    if value is None:
        return None
    if value not in parameters.CONTENT_TYPES:
        remedy = f"write one of {', '.join(parameters.CONTENT_TYPES)}, or leave it empty for other formats"
        problems.append(Problem(raw.line, "contentType", _shown(value), remedy))
        return None
    return str(value)
