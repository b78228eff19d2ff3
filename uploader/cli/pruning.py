"""`uploader ledger prune`: forgets the rows of old batches, and says before what would go."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode
from uploader.ledger import Ledger
from uploader.ledger.pruning import Prunable, Pruned, find_prunable, prune
from uploader.results import rfc3339
from uploader.settings import Settings
from uploader.status.formatting import format_bytes, format_rows

# the most names in the text; the JSON has all
NAMES_SHOWN = 10


def prune_ledger(settings: Settings, days: int, *, yes: bool, as_json: bool) -> ExitCode:
    """Show what of the ledger may be forgotten, and forget it where that is confirmed."""
    opening = Ledger.open_beside_run if yes else Ledger.open_for_reading
    pruned, sizes, hint = None, [], ""
    with opening(settings.ledger) as ledger:
        with ledger.reading() as connection:
            now = ledger.read_clock(connection)
            before = now - timedelta(days=days).total_seconds()
            found = find_prunable(connection, before)
        sizes.append(ledger.size())
        if yes:
            pruned = prune(ledger, found, before, now)
            hint = ledger.give_back_room()
        address = ledger.address
    if yes:
        # a file becomes smaller as it is closed, its log written back
        with Ledger.open_for_reading(settings.ledger) as ledger:
            sizes.append(ledger.size())
    if as_json:
        print_json({"ledger": address, "exitCode": 0, **_as_json(found, pruned, before, sizes)})
    else:
        print_lines(_as_lines(address, found, pruned, before, sizes, hint))
    return ExitCode.DONE


def _as_json(found: Prunable, pruned: Pruned | None, before: float, sizes: Sequence[int]) -> dict[str, Any]:
    counted = pruned or found
    return {
        "before": rfc3339(before),
        "done": pruned is not None,
        "batches": [batch.name for batch in found.batches],
        "rows": counted.rows,
        "items": counted.items,
        "attempts": counted.attempts,
        "bytes": found.size,
        "ledgerBytes": sizes[-1],
        "notOver": list(found.not_over),
    }


def _as_lines(
    address: str, found: Prunable, pruned: Pruned | None, before: float, sizes: Sequence[int], hint: str
) -> Iterator[str]:
    counted = pruned or found
    names = [batch.name for batch in found.batches]
    kept = f"lose path and parameters, and stay known by their content{_format_others(counted)}"
    if not (names or counted.items or found.not_over):
        yield f"ledger {address}: nothing was over before {rfc3339(before)} that is not forgotten already"
        return
    yield f"ledger {address}: what was over before {rfc3339(before)} {'is' if pruned else 'would be'} forgotten"
    yield from format_rows(
        [
            ("batches", f"{len(names):,}{_listed(names)}"),
            ("rows", f"{counted.rows:,}, with their paths and x- columns: no results of them can be made any more"),
            ("items", f"{counted.items:,} {kept}"),
            ("attempts", f"{counted.attempts:,}"),
            ("room", f"about {format_bytes(found.size)} of {format_bytes(sizes[0])}"),
            (
                "not over",
                f"{len(found.not_over):,} as old, which stay{_listed(found.not_over)}" if found.not_over else "",
            ),
        ]
    )
    if pruned is None:
        yield "A manifest that names these recordings again needs their files: they are known by their content alone."
        yield "Nothing was changed: the same command with --yes forgets it."
    else:
        yield f"The ledger has {format_bytes(sizes[-1])} now{f': {hint}' if hint else ''}."


def _format_others(counted: Prunable | Pruned) -> str:
    """Explain why more items than rows are counted."""
    return " (some are of no row any more, or of rows forgotten before)" if counted.items > counted.rows else ""


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f", and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f": {', '.join(names[:NAMES_SHOWN])}{more}"
