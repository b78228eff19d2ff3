"""What `uploader status` shows of a ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uploader.errors import ExitCode
from uploader.ledger.former import Former
from uploader.ledger.reading import BatchFacts, Remark, Standing, Trouble
from uploader.model import LimitFacts
from uploader.results import rfc3339
from uploader.status.telling import (
    HOW_TO_KEEP_NIGHTS_APART,
    counts_json,
    former_json,
    limit_json,
    remark_json,
    resolve_command,
    run_command,
    told_count,
    told_counts,
    told_former,
    told_limit,
    told_remarks,
    told_trouble,
    trouble_json,
)


@dataclass(frozen=True, slots=True)
class Overview:
    """What a ledger holds, with one batch looked at more closely. ``busy``: a run holds the ledger."""

    ledger: Path
    busy: bool
    limit: LimitFacts
    batch: BatchFacts
    troubles: Sequence[Trouble]
    batches: Sequence[tuple[BatchFacts, Standing]]
    exit_code: ExitCode
    remarks: Sequence[Remark] = ()
    """What is out of order in the batch, whatever became of the item: an append too many, say."""
    former: Sequence[Former] = ()
    """What the batches held before and none holds any more."""

    def _where(self, facts: BatchFacts) -> str:
        """For which service a batch is, where the ledger has more than one."""
        several = len({one.base_url for one, _ in self.batches}) > 1
        return f" ({facts.base_url})" if several else ""

    def as_json(self) -> dict[str, Any]:
        """The overview for a machine."""
        return {
            "ledger": str(self.ledger),
            "running": self.busy,
            "exitCode": int(self.exit_code),
            "batch": self.batch.name,
            "limit": limit_json(self.limit),
            "batches": [
                {
                    "batch": facts.name,
                    "baseUrl": facts.base_url,
                    "ranAt": rfc3339(facts.ran_at),
                    "results": facts.results,
                    "items": standing.items,
                    "counts": counts_json(standing.counts),
                    "overdue": standing.overdue,
                }
                for facts, standing in self.batches
            ],
            "needsPerson": [trouble_json(one) for one in self.troubles],
            "outOfOrder": [remark_json(one) for one in self.remarks],
            "former": [former_json(one) for one in self.former],
        }

    def as_text(self) -> str:
        """The overview for a person."""
        lines = [f"ledger {self.ledger}" + (": a run is on" if self.busy else "")]
        lines.append(f"limit  {told_limit(self.limit)}")
        for facts, standing in self.batches:
            told = f"{told_count(standing.items, 'item')}: {told_counts(standing.counts)}"
            lines.append(f"batch  {facts.name}{self._where(facts)}: {told}")
            lines += [f"       {told_former(one)}" for one in self.former if one.batch_id == facts.batch_id]
        if self.former:
            lines.append(f"before {HOW_TO_KEEP_NIGHTS_APART}:")
            lines += [f"  {resolve_command(one.batch, self.ledger)}" for one in self.former]
        if self.troubles:
            lines.append(f"needs a person in {self.batch.name}:")
            lines += [f"  {told_trouble(one)}" for one in self.troubles]
            lines.append(f"next   {resolve_command(self.batch.name, self.ledger)}")
        if not self.busy and self.exit_code is ExitCode.GAVE_UP:
            carries_on = run_command(self.batch.name, self.batch.base_url, self.ledger)
            lines.append(f"no run is on, and {self.batch.name} is not over: type its `uploader run …` again, or")
            lines.append(f"  {carries_on}")
        if self.remarks:
            lines.append(f"out of order in {self.batch.name}: (to be looked at; nothing is to be settled)")
            lines += [f"  {one}" for one in told_remarks(self.remarks)]
        return "\n".join(lines)
