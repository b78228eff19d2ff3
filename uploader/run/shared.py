"""The parts that several runs of one process have in common."""

import asyncio

from uploader.pace import Paces, make_paces
from uploader.run.listening import Listen
from uploader.settings import Settings


class Shared:
    """The parts that several runs of one process have in common, in one loop.

    Args:
        listen: Listens for each run; None: each has listeners of its own, as its settings say.
    """

    def __init__(self, listen: Listen | None = None) -> None:
        self.listen = listen
        # held while a run opens the ledger and loads its manifest: first come, first served
        self.loading = asyncio.Lock()
        self._paces: dict[tuple[str, int], Paces] = {}

    def paces(self, ledger: str, account_id: int, settings: Settings) -> Paces:
        """Return the rate limiters of an account: a rate that a person has set holds for all runs together."""
        key = ledger, account_id
        if key not in self._paces:
            self._paces[key] = make_paces(settings)
        return self._paces[key]
