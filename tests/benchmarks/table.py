"""One table of figures: what was measured, beside whom, what it must be, and whether it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HEADER = ("figure", "of", "value", "beside", "ratio", "must be", "holds", "remarks")


@dataclass(frozen=True, slots=True)
class Must:
    """What a figure must be: at ``most``, or at ``least``, so much."""

    bound: Literal["most", "least"]
    value: float

    def holds(self, figure: float) -> bool:
        """Whether a figure is as it must be."""
        return figure <= self.value if self.bound == "most" else figure >= self.value

    def __str__(self) -> str:
        """As the table shows it."""
        return f"{'≤' if self.bound == 'most' else '≥'} {number(self.value)}"


def at_most(value: float) -> Must:
    """A figure that must not be above a value."""
    return Must("most", value)


def at_least(value: float) -> Must:
    """A figure that must not be below a value."""
    return Must("least", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    ``figure`` says what was measured, ``of`` whose figure it is (ours, or a peer's name). ``ratio`` is the value over
    that of the peer named in ``beside``, measured in the same run. ``must`` is about the ratio where there is one, else
    about the value; None demands nothing. Of a client that did not do its ``whole`` work no figure holds.
    """

    figure: str
    of: str
    value: float
    unit: str = ""
    beside: str = ""
    ratio: float | None = None
    must: Must | None = None
    remarks: str = ""
    whole: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether it is as it must be; None where nothing is demanded."""
        if self.must is None:
            return None
        return self.whole and self.must.holds(self.value if self.ratio is None else self.ratio)

    def cells(self) -> tuple[str, ...]:
        """What stands in the columns of ``HEADER``."""
        return (
            self.figure,
            self.of,
            f"{number(self.value)} {self.unit}".strip(),
            self.beside,
            "" if self.ratio is None else f"{number(self.ratio)} times",
            "" if self.must is None else str(self.must),
            {None: "", True: "yes", False: "NO"}[self.holds],
            self.remarks,
        )


def number(value: float) -> str:
    """A number with as many decimals as it takes to tell it from its like."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}".rstrip("0").rstrip(".")


def plain(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown) + "\n"


def markdown(rows: Sequence[Row], where: str) -> str:
    """The table as Markdown, below a line that says where and when it was measured."""
    lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells() for row in rows)]
    return f"{where}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
