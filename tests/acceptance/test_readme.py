"""What the README says is typed, in its order, by somebody who has nothing else."""

import re
import shlex

import pytest

from tests.acceptance.batches import make_rows, statuses, write_manifest
from tests.acceptance.place import Place, Server
from tests.acceptance.starting import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def typed(text: str) -> list[list[str]]:
    """Return the words of each uploader command in a console block, without comments."""
    lines = [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ "), comments=True)[1:] for line in lines if line.startswith("$ uploader")]


def test_ones_own_files_are_appended_as_the_readme_says(place: Place, server: Server) -> None:
    """Its manifest, as it stands there; its commands, one after the other; each ends with 0, and the rows complete."""
    (manifest,) = re.findall(r"```csv\n(.*?)```", section("Your own files"), re.DOTALL)
    place.write("monday.csv", manifest)
    paths = [line.split(",")[1] for line in manifest.splitlines()[1:]]
    for path in paths:
        place.write(path, (ROOT / "config/sample" / path.rpartition("/")[2]).read_bytes())
    commands = typed(section("Your own files"))
    assert [words[0] for words in commands] == ["doctor", "plan", "run", "status"]
    for words in commands:
        ended = place.run(*words)
        assert ended.code == 0, (words, ended.out, ended.err)
    assert statuses(place.path("monday.results.csv")) == ["completed"] * len(paths)
    assert len(server.journal.appended()) == len(paths)


def without_figures(text: str) -> list[str]:
    """Return the lines of a text with N for each word that has a digit in it, and one unit for all sizes."""
    words = [["N" if re.search(r"\d", word) else word for word in line.split()] for line in text.splitlines()]
    return [re.sub(r"\b[KM]iB\b", "bytes", " ".join(line)) for line in words]


def test_a_doubt_is_settled_as_the_readme_says(place: Place) -> None:
    """The list has the lines that are shown there, the decision is taken, and the same command carries on."""
    (shown,) = re.findall(r"```console\n(.*?)```", section("When something needs a person"), re.DOTALL)
    listing, decision, again = typed(section("When something needs a person"))
    write_manifest(place, "monday.csv", make_rows(place, 2, 2))
    server = place.serve("--limit", "5", faults="[put]\nlost_before = 1.0\n")
    place.use(server)
    place.run("run", "monday.csv", "--first", "1", "--doubt-seconds", "0.1")
    line = statuses(place.path("monday.results.csv")).index("in_doubt") + 2
    listed = place.run(*listing)
    assert listed.code == 1
    expected = [text for text in without_figures(shown) if not text.startswith("$")]
    assert [text for text in without_figures(listed.out) if text in expected] == expected, listed.out
    assert place.run(*[str(line) if word == "11" else word for word in decision]).code == 0
    server.running.stop()
    place.serve("--limit", "5", port=int(server.base_url.rpartition(":")[2]))
    assert place.run(*again).code == 0
    assert set(statuses(place.path("monday.results.csv"))) == {"completed"}


@pytest.mark.parametrize("first_night", [True, False])
def test_a_night_runs_under_cron_as_the_readme_says(place: Place, server: Server, *, first_night: bool) -> None:
    """The crontab's line with its variable, and credentials in the secrets folder alone; the first night is told so."""
    (block,) = re.findall(r"```crontab\n(.*?)```", section("Every night"), re.DOTALL)
    variable, line = block.splitlines()
    folder = place.path("secrets")
    for name in ("UPLOADER_APP_ID", "UPLOADER_APP_SECRET"):
        place.write(f"secrets/{name.lower()}", place.environment.pop(name))
    assert variable.startswith("UPLOADER_SECRETS_DIR=/")
    place.environment["UPLOADER_SECRETS_DIR"] = str(folder)
    write_manifest(place, "calls.csv", make_rows(place, 2, 2))
    words = shlex.split(re.sub(r"/data/calls-\S+ \S+\.csv", "calls.csv", line.split(maxsplit=5)[5]))[1:]
    if not first_night:
        assert place.run("run", "calls.csv", "--first", "1").code == 6
    ended = place.run(*words)
    assert ended.code == (2 if first_night else 0), ended.err
    assert ("--ledger-must-exist forbids to make one" in ended.err) == first_night
    assert len(server.journal.appended()) == (0 if first_night else 2)
