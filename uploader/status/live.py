"""The live lines of a run on a terminal: how far, how fast, its slots, what holds it back, what needs a person."""

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from uploader.ledger.standing import Standing
from uploader.model import TROUBLED, LimitFacts, State
from uploader.status.formatting import format_bytes, format_count, format_duration, format_held_back
from uploader.status.progress import Progress, ended
from uploader.text import printable

# the widest bar and the widest name of a batch, in columns
BAR_COLUMNS, NAME_COLUMNS = 40, 30
# the narrowest bar that is worth its place
LEAST_BAR = 6
# the most cells for slots; each stands for several slots where the limit is higher
MOST_CELLS = 40
LABEL_COLUMNS = 9
SEPARATOR = ", "
NEEDS_STYLE = "bold yellow"


class Symbols(NamedTuple):
    """The characters of bars and cells."""

    done: str = "━"
    left: str = "─"
    job: str = "■"
    doubt: str = "◆"
    other: str = "▪"
    free: str = "□"
    cut: str = "…"


UNICODE = Symbols()
# for terminals that show ASCII alone
ASCII = Symbols("#", "-", "#", "?", "o", ".", ">")


class Line(NamedTuple):
    """One line, and the style of its text."""

    text: str
    style: str = ""


def live_lines(progress: Progress, columns: int, symbols: Symbols = UNICODE) -> list[Line]:
    """Format the progress of a run as a few lines of at most so many columns.

    What does not fit is left out: details from the right, whole ones, then the bar, then the end of a name.
    """
    lines = [Line(head_line(name, ended(found), found.items, columns, symbols)) for name, found in progress.batches]
    lines.append(Line(_labelled("rate", _rate(progress), columns, symbols)))
    lines.extend(_slot_lines(progress.limit, columns, symbols))
    held_back = [*([progress.waits] if progress.waits else []), *_held_back(progress)]
    if held_back:
        lines.append(Line(_labelled("held back", held_back, columns, symbols)))
    if needs := _needs(progress.standing):
        lines.append(Line(_labelled("needs you", needs, columns, symbols), NEEDS_STYLE))
    return lines


def count_lines(
    name: str, done: int, total: int, details: Sequence[str], columns: int, symbols: Symbols = UNICODE
) -> list[Line]:
    """Format a count as a line with a bar, and a line of details."""
    return [Line(head_line(name, done, total, columns, symbols)), Line(fitting(details, columns))]


def head_line(name: str, done: int, total: int, columns: int, symbols: Symbols = UNICODE) -> str:
    """Format name, bar, count and percent; the count always fits."""
    share = done * 100 // total if total else 100
    figures = f"{done}/{total}  {share} %"
    room = columns - cell_len(figures) - 2
    shown = cropped(printable(name), min(room, NAME_COLUMNS), symbols)
    bar = min(room - cell_len(shown) - 2, BAR_COLUMNS)
    if bar >= LEAST_BAR:
        filled = bar * done // total if total else bar
        return f"{shown}  {symbols.done * filled}{symbols.left * (bar - filled)}  {figures}"
    return cropped(f"{shown}  {figures}" if shown else figures, columns, symbols)


def fitting(details: Sequence[str], columns: int) -> str:
    """Join details from the first on, as many as fit into the columns."""
    kept = ""
    for detail in details:
        longer = f"{kept}{SEPARATOR}{detail}" if kept else detail
        if cell_len(longer) > columns:
            break
        kept = longer
    return kept


def cropped(text: str, columns: int, symbols: Symbols = UNICODE) -> str:
    """Cut a text that takes more than so many columns, with a sign at the cut."""
    if cell_len(text) <= columns:
        return text
    return set_cell_size(text, columns - 1) + symbols.cut if columns > 0 else ""


def cells(limit: LimitFacts, most: int, symbols: Symbols = UNICODE) -> str:
    """Draw the slots: those of jobs, those held for items in doubt, those of other users' jobs, and the free ones."""
    others = limit.others or 0
    jobs = limit.live - limit.doubtful
    slots = max(limit.in_force, limit.live + others)
    counts = (jobs, limit.doubtful, others, slots - limit.live - others)
    drawn = list(counts)
    if slots > most:
        if most < len(counts):
            return ""
        # a kind that takes any slot has a cell at least; the largest kind gives way
        drawn = [max(count * most // slots, 1) if count else 0 for count in counts]
        drawn[drawn.index(max(drawn))] += most - sum(drawn)
    signs = (symbols.job, symbols.doubt, symbols.other, symbols.free)
    return "".join(sign * count for sign, count in zip(signs, drawn, strict=True))


class LiveView:
    """The last lines of the terminal, redrawn in place; other output on standard error stands above them."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._symbols = ASCII if self._console.options.ascii_only else UNICODE

    def __enter__(self) -> Self:
        """Take the last lines."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the lines, and show the cursor."""
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show the progress of a run."""
        self.draw(lambda columns, symbols: live_lines(progress, columns, symbols))

    def draw(self, lines: Callable[[int, Symbols], Sequence[Line]]) -> None:
        """Draw lines that are made for a number of columns."""
        # a character in the last column makes some terminals wrap
        shown = lines(self._console.width - 1, self._symbols)
        texts = [Text(line.text, line.style, no_wrap=True, overflow="crop") for line in shown]
        self._live.update(Group(*texts), refresh=True)


def _labelled(label: str, details: Sequence[str], columns: int, symbols: Symbols) -> str:
    room = columns - LABEL_COLUMNS - 1
    shown = fitting(details, room) or cropped(details[0], max(room, 0), symbols)
    return cropped(f"{label:<{LABEL_COLUMNS}} {shown}", columns, symbols)


def _rate(progress: Progress) -> list[str]:
    left = progress.seconds_left
    if left is None:
        return [f"{format_bytes(progress.bytes_per_second)}/s"]
    ends = f"{datetime.fromtimestamp(progress.now + left).astimezone():%H:%M}"
    return [f"{format_bytes(progress.bytes_per_second)}/s", f"{format_duration(left)} left", f"ends {ends}"]


def _slot_lines(limit: LimitFacts, columns: int, symbols: Symbols) -> Iterator[Line]:
    jobs = limit.live - limit.doubtful
    details = [f"{jobs} of {limit.in_force} busy"]
    if limit.doubtful:
        until = limit.doubtful_until
        end = "" if until is None else f" until {datetime.fromtimestamp(until).astimezone():%H:%M}"
        details.append(f"{limit.doubtful} held for doubt{end}")
    if limit.others:
        details.append(f"{limit.others} of others")
    if limit.in_force < limit.configured:
        details.append(f"configured {limit.configured}")
    room = columns - LABEL_COLUMNS - 1 - cell_len(details[0]) - 2
    drawn = cells(limit, min(room, MOST_CELLS), symbols)
    details[0] = f"{drawn}  {details[0]}" if drawn else details[0]
    yield Line(_labelled("slots", details, columns, symbols))


def _held_back(progress: Progress) -> list[str]:
    """Split what has held the run back into details."""
    text = format_held_back(progress.held_back)
    return text.replace("; ", SEPARATOR).split(SEPARATOR) if text else []


def _needs(found: Standing) -> list[str]:
    """Format the items that need a person, and those that are held behind them."""
    counts = found.counts
    open_items = {state: counts[state] for state in TROUBLED if counts[state]}
    details = [f"{count} {state.value.replace('_', ' ')}" for state, count in open_items.items()]
    if found.overdue:
        details.append(f"{format_count(found.overdue, 'job')} overdue")
    if not details:
        return []
    details[-1] += ": uploader resolve"
    return [*details, *([f"{counts[State.HELD]} held behind"] if counts[State.HELD] else [])]
