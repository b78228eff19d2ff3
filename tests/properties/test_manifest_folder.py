"""Whatever the files of a folder are called, the manifest that is written of them can be run."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.recordings import recording
from uploader import audio, results
from uploader.manifest import Format, Manifest
from uploader.manifest.folder import LeftOut, Listed, list_folder
from uploader.manifest.pattern import PathPattern
from uploader.manifest.rules import RowRules
from uploader.model import Row

# any name that a file system takes, short enough for all of them
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
FILES = st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6)
SOUND = recording(0.01)


@given(files=FILES, form=st.sampled_from(["csv", "jsonl"]), delimiter=st.sampled_from([",", ";", "\t"]))
def test_every_row_that_is_written_is_valid_and_names_its_file(
    files: list[tuple[str, str]], form: Format, delimiter: str
) -> None:
    """The reader takes each row, with the id and the file that were meant; every other file is told."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "calls"
        made = set()
        for conversation, file in files:
            if conversation in (".", "..") or file in (".", ".."):
                continue
            path = folder / conversation / f"{file}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(SOUND)
            made.add((conversation, str(path)))
        if not made:
            return
        rules = RowRules(Path(name), False, lambda *_: False, examine=audio.examine)
        found = list(list_folder(folder, PathPattern("{conversationId}/**"), rules, "calls/", follow_links=False))
        rows = [listed.cells for listed in found if isinstance(listed, Listed)]
        manifest = Path(name) / "m"
        results.write_manifest(manifest, rows, form, delimiter)
        read = Manifest(
            manifest, "m", form, Path(name), False, lambda *_: False, delimiter=delimiter, examine=audio.examine
        )
        back = list(read.read()) if rows else []
        assert all(isinstance(row, Row) for row in back)
        written = {(row.conversation_id, row.path) for row in back if isinstance(row, Row)}
        assert written <= made
        told = [f"{folder}/{left.path}" for left in found if isinstance(left, LeftOut)]
        # a hidden folder is told as a whole
        assert all(path in told or str(Path(path).parent) in told for _, path in made - written)
        assert len(written) == len(back) == len(rows)
