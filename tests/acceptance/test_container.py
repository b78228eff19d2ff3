"""The container does what its guide prints, for a folder that its caller owns; nightly, since it takes minutes."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, statuses, write_manifest
from tests.acceptance.judging import check_appended
from tests.acceptance.place import Place

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
GUIDE = (ROOT / "uploader" / "docs" / "container.md").read_text(encoding="utf-8")
TOOLS = ("buildah", "debootstrap")
MIRROR = "http://deb.debian.org/debian"
# what stands in the place of Docker's own image: the same release of Debian, with its Python
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,tzdata"
CALLER = 1234

pytestmark = [
    pytest.mark.skipif(any(shutil.which(name) is None for name in TOOLS), reason=f"not here: {' or '.join(TOOLS)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a base is made by root alone"),
]


def buildah(*words: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run buildah, which needs neither a server nor a kernel's leave for namespaces so."""
    command = ["buildah", "--storage-driver=vfs", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image over a base that is made here under the name of Docker's own."""
    if not pytestconfig.getoption("--nightly"):
        pytest.skip("it takes minutes: nightly")
    named = re.findall(r"^ARG BASE=(\S+-slim-(\w+))$", DOCKERFILE, re.MULTILINE)
    ((base, release),) = named
    folder = tmp_path_factory.mktemp("base") / "root"
    words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(folder), MIRROR]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    (folder / "usr" / "bin" / "python").symlink_to("python3")
    empty = buildah("from", "scratch").stdout.strip()
    buildah("add", "-q", empty, folder, "/")
    buildah("commit", "-q", empty, f"docker.io/library/{base}")
    buildah("rm", empty)
    trusted = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro")
    buildah("bud", "--isolation=chroot", "--pull=never", "--layers=false", *trusted, "--tag", "uploader-test", ".")
    return "localhost/uploader-test"


@dataclass(frozen=True)
class Container:
    """A container, and a new named volume, which takes mode and owner of the image's folder."""

    name: str
    volume: Path

    def run(self, printed: str, place: Place) -> "subprocess.CompletedProcess[str]":
        """Run what a `docker run` of the guide runs, with its own options."""
        words = shlex.split(
            printed.replace("$(id -u)", str(CALLER)).replace("$(id -g)", str(CALLER)).replace("\\\n", " ")
        )
        assert words[:2] == ["docker", "run"]
        options, command = _split(words[2:])
        options = [_resolved(option, place, self.volume) for option in options]
        return buildah("run", "--isolation=chroot", *options, self.name, "--", "uploader", *command, check=False)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words behind `docker run` into options, but for the one that deletes, and the command."""
    at = words.index("uploader")
    return [word for word in words[:at] if word != "--rm"], list(words[at + 1 :])


def _resolved(option: str, place: Place, volume: Path) -> str:
    if re.fullmatch("UPLOADER_[A-Z_]+", option):
        return f"{option}={place.environment[option]}"
    return option.replace("$PWD", str(place.folder)).replace("uploader-state:", f"{volume}:")


@pytest.fixture
def container(image: str, tmp_path: Path) -> Iterator[Container]:
    """A container of the image."""
    name = buildah("from", "--pull=never", image).stdout.strip()
    root = Path(buildah("mount", name).stdout.strip())
    volume = tmp_path.parent / f"{tmp_path.name}-volume"
    volume.mkdir()
    found = (root / "state").stat()
    os.chown(volume, found.st_uid, found.st_gid)
    volume.chmod(found.st_mode)
    yield Container(name, volume)
    buildah("rm", name)


def test_the_command_as_printed_serves_a_folder_of_the_caller(container: Container, place: Place) -> None:
    """The caller owns folder, results and ledger; the second night knows the first; the zone is TZ's."""
    server = place.serve()
    place.use(server)
    rows = make_rows(place, 6, 3)
    write_manifest(place, "monday.csv", rows)
    # a parent of pytest's own is closed to others
    for path in (place.folder, *place.folder.parents):
        if path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    for path in (place.folder, *place.folder.rglob("*")):
        os.chown(path, CALLER, CALLER)
    printed = re.findall(r"^\$ (docker run (?:[^\n]*\\\n)*[^\n]*)$", GUIDE, re.MULTILINE)[0]
    for _ in range(2):
        done = container.run(printed.replace(" uploader run", " -e UPLOADER_BASE_URL uploader run"), place)
        assert done.returncode == 0, done.stderr
        check_appended(server.journal, rows)
    assert statuses(place.path("monday.results.csv")) == ["completed"] * len(rows)
    assert place.path("monday.results.csv").stat().st_uid == CALLER
    ledger = container.volume / "ledger.db"
    assert (ledger.stat().st_uid, ledger.stat().st_mode & 0o777) == (CALLER, 0o600)
    again = printed.replace("run monday.csv", "doctor").replace(
        " uploader doctor", " -e UPLOADER_BASE_URL uploader doctor"
    )
    doctor = container.run(again, place)
    assert re.search(r"here it is \d\d:\d\d CES?T", doctor.stdout), doctor.stdout
    assert "obstore" in doctor.stdout
