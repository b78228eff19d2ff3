"""What a person types first, and what it leaves behind."""

import pytest

from tests.acceptance.batches import read_results
from tests.acceptance.place import Place
from tests.acceptance.starting import ROOT


@pytest.mark.real_start
def test_the_first_command_of_the_readme_completes_and_can_be_repeated(place: Place) -> None:
    """`uploader run config/sample/manifest.csv --sandbox` ends with 0, a jobId and completed in every line; twice."""
    rows = (ROOT / "config/sample/manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    results = place.path("sample.results.csv")
    command = ("run", ROOT / "config/sample/manifest.csv", "--sandbox", "--limit", "10", "--results", results)
    accepted: list[list[str]] = []
    for _ in range(2):
        ending = place.run(*command)
        assert ending.code == 0, ending.err
        lines = read_results(results)
        assert len(lines) == len(rows) > 0
        assert {line["status"] for line in lines} == {"completed"}
        assert len({line["jobId"] for line in lines} - {""}) == len(rows)
        accepted.append([line["acceptedAt"] for line in lines])
        for line in lines:
            assert int(line["bytes"]) == (ROOT / "config/sample" / line["audioPath"]).stat().st_size
            assert float(line["durationSeconds"]) > 1
            assert line["channels"] in ("1", "2")
            assert line["x-ticket"]
    assert max(accepted[0]) < min(accepted[1]), "each rehearsal appends everything, to a sandbox of its own"
    assert not place.ledger.exists(), "a rehearsal leaves the real ledger alone"
