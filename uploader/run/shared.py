"""The parts that several runs of one process have in common."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uploader.pace import Paces, make_paces
from uploader.run.listening import Listen
from uploader.run.reporting import Renamed, as_it_is
from uploader.settings import Settings


class Shared:
    """The parts that several runs of one process have in common, in one loop.

    Args:
        renamed: Names a run's files in a text as they stand once the run is over.
    """

    def __init__(self, renamed: Renamed = as_it_is) -> None:
        # listens for each run; None: each has listeners of its own, as its settings say
        self.listen: Listen | None = None
        self.renamed = renamed
        # held while a run opens the ledger and loads its manifest: first come, first served
        self.loading = asyncio.Lock()
        # look at the ledger for what other workers have changed, one for each run
        self._looks: list[Callable[[], None]] = []
        self._paces: dict[tuple[str, int], Paces] = {}

    def paces(self, ledger: str, account_id: int, settings: Settings) -> Paces:
        """Return the rate limiters of an account: a rate that a person has set holds for all runs together."""
        key = ledger, account_id
        if key not in self._paces:
            self._paces[key] = make_paces(settings)
        return self._paces[key]

    @contextmanager
    def present(self, look: Callable[[], None]) -> Iterator[None]:
        """Let the other runs know at once, not by their next look, that a run begins, and that it has ended.

        Args:
            look: Called in the block where another run begins or has ended.
        """
        self._wake_all()
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)
            self._wake_all()

    def _wake_all(self) -> None:
        for look in self._looks:
            look()
