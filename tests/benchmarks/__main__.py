"""`python -m tests.benchmarks`: prints one table, every row measured in the same run beside its peers."""

import importlib
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from tests.benchmarks import machine, measures, table
from tests.benchmarks.bench import Bench
from tests.benchmarks.table import Row

NAMES = sorted(found.name for found in pkgutil.iter_modules(measures.__path__))


@click.command()
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="these rows alone; may be repeated")
@click.option("--quick", is_flag=True, help="a fraction of the work: to try things out, no figures to keep")
@click.option("--scale", default=1.0, show_default=True, help="makespan, nights: jobs take so much of their seconds")
@click.option("--repeats", default=3, show_default=True, help="where a median counts, it is of so many")
@click.option("--at-once", default=4, show_default=True, help="makespan, nights: rows that run side by side")
@click.option("--client", default="", help="makespan, nights: only clients with this in their name")
@click.option("--night", default="", help="nights: only those with this in their name")
@click.option("--markdown", "file", type=click.Path(path_type=Path), help="write the table as Markdown, too")
@click.option("--keep", type=click.Path(path_type=Path), help="work in this folder, and leave it as it is at the end")
def main(
    only: tuple[str, ...],
    *,
    quick: bool,
    scale: float,
    repeats: int,
    at_once: int,
    client: str,
    night: str,
    file: Path | None,
    keep: Path | None,
) -> None:
    """Measure, and print one table; exit with 1 where a figure is not as it must be."""
    folder = keep or Path(tempfile.mkdtemp(prefix="uploader-benchmarks-"))
    bench = Bench(folder.absolute(), quick, scale, repeats, at_once, client, night)
    try:
        rows = list(_measured(bench, only or tuple(NAMES)))
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    where = machine.described()
    sys.stdout.write(f"{where}\n\n{table.plain(rows)}")
    if file is not None:
        file.write_text(table.markdown(rows, where), encoding="utf-8")
    sys.exit(1 if any(row.holds is False for row in rows) else 0)


def _measured(bench: Bench, names: tuple[str, ...]) -> Iterator[Row]:
    for name in names:
        for row in importlib.import_module(f"{measures.__name__}.{name}").rows(bench):
            bench.say(" · ".join(cell for cell in row.cells() if cell))
            yield row


if __name__ == "__main__":
    main()
