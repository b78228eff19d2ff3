"""What each command costs more on a ledger of a million finished items of former nights than on one of a thousand."""

import csv
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import former_nights
from tests.benchmarks.bench import Bench, Server
from tests.benchmarks.children import Used
from tests.benchmarks.table import Row, at_most

ITEMS_A_NIGHT = 1000
NIGHTS = 1000
FEW_NIGHTS = 20
ITEMS = 10
MOST_SECONDS = 0.05
LEAST_ROUNDS = 5
"""A difference of two small figures needs more of them than a ratio of two large ones."""
ENVIRONMENT = {"UPLOADER_INSIGHTS__REQUESTS_PER_SECOND": "100"}
HOW = ("--limit", "50", "--rate", "1000", "--progress", "off")

Command = Callable[[str], tuple[str, ...]]
COMMANDS: dict[str, Command] = {
    "plan": lambda name: ("plan", f"{name}.csv", "--limit", "50"),
    "run, new manifest": lambda name: ("run", f"{name}.csv", *HOW),
    "run, carrying on": lambda name: ("run", "--batch", f"{name}.csv", *HOW),
    "status": lambda _: ("status",),
    "results": lambda name: ("results", "--batch", f"{name}.csv", "--results", f"{name}.again.csv"),
    "report": lambda name: ("report", "--batch", f"{name}.csv", "--json"),
    "resolve": lambda name: ("resolve", "--batch", f"{name}.csv"),
    "insights": lambda name: ("insights", f"{name}.insights", "--batch", f"{name}.csv", "--only", "members"),
}
"""Each command by the name of its manifest, in the order in which they are given."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a ledger of former nights, and the manifests of new ones."""

    name: str
    folder: Path

    @property
    def url(self) -> str:
        """The ledger as the command line names it."""
        return f"sqlite:///{self.folder}/ledger.db"


def rows(bench: Bench) -> Iterator[Row]:
    """Each command in turn on both ledgers, round for round: medians of the CPU seconds, and their difference."""
    many = FEW_NIGHTS if bench.quick else NIGHTS
    rounds = 1 if bench.quick else max(bench.repeats, LEAST_ROUNDS)
    with sandbox(bench) as server:
        places = [filled(bench, server, count) for count in (1, many)]
        used: dict[tuple[str, str], list[Used]] = {}
        for number in range(rounds):
            for place in places:
                write_manifest(place.folder, f"new-{number}", number)
            for figure, command in COMMANDS.items():
                for place in places:
                    one = bench.uploader(
                        place.folder,
                        *command(f"new-{number}"),
                        "--ledger",
                        place.url,
                        server=server,
                        environment=ENVIRONMENT,
                    )
                    used.setdefault((figure, place.name), []).append(one.check())
    for figure in COMMANDS:
        yield _told(figure, *(used[figure, place.name] for place in places), of=f"{many * ITEMS_A_NIGHT} items")


def sandbox(bench: Bench) -> AbstractContextManager[Server]:
    """A service whose jobs are over at once."""
    return bench.sandbox(bench.place("sandbox"), "--limit", "50", "--job-seconds", "0.05")


def filled(bench: Bench, server: Server, count: int) -> Place:
    """A place with a ledger of so many former nights."""
    place = Place(f"{count * ITEMS_A_NIGHT} items", bench.place(f"{count}-nights"))
    former_nights.fill(place.folder / "ledger.db", server.base_url, count, ITEMS_A_NIGHT)
    with wave.open(str(place.folder / "call.wav"), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(former_nights.ITEM_BYTES - 44))
    return place


def write_manifest(folder: Path, name: str, number: int) -> None:
    """Some new conversations, one that every night goes on with, and some that one night began."""
    known = [former_nights.conversation(1, 2 + number * ITEMS + one, ITEMS_A_NIGHT) for one in range(ITEMS // 2)]
    new = [f"{name}-{one}" for one in range(ITEMS - len(known) - 1)]
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["conversationId", "audioPath"], *([one, "call.wav"] for one in (former_nights.DAILY, *known, *new))]
        )


def _told(figure: str, few: Sequence[Used], many: Sequence[Used], *, of: str) -> Row:
    cpu = [median(one.cpu_seconds for one in several) for several in (few, many)]
    wall = [median(one.seconds for one in several) for several in (few, many)]
    return Row(
        figure=f"{figure}: more CPU than with {ITEMS_A_NIGHT} items of former nights",
        of=of,
        value=cpu[1] - cpu[0],
        unit="s",
        must=at_most(MOST_SECONDS),
        remarks=f"{cpu[0]:.2f} and {cpu[1]:.2f} s of CPU, {wall[0]:.2f} and {wall[1]:.2f} s of wall clock",
    )
