"""Promise 6: memory does not grow with the size of the files."""

import sys
from pathlib import Path

import pytest
import trustme

from tests.acceptance.batches import statuses, write_table
from tests.acceptance.place import DEADLINE_SECONDS, Place

FILES = 16
MOST_BYTES = 120 << 20

# a process inherits its parent's peak when it begins: this small one in between has none to give
MEASURE = """
import ctypes, os, signal, sys
child = os.fork()
if not child:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with us
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
with open("peak", "w") as file:
    file.write(str(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, a certificate of loopback, and its key."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    paths = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(str(paths[0]))
    certificate.cert_chain_pems[0].write_to_path(str(paths[1]))
    certificate.private_key_pem.write_to_path(str(paths[2]))
    return paths


def test_sixteen_large_files_at_once_over_tls_stay_below_120_mebibytes(
    place: Place, pytestconfig: pytest.Config
) -> None:
    """16 uploads at once over TLS: the command's peak resident memory stays under 120 MiB, however large the files.

    By default 32 MiB each; nightly 256 MiB each.
    """
    file_bytes = (256 if pytestconfig.getoption("--nightly") else 32) << 20
    authority, certificate, key = _certificates(place.folder)
    for number in range(FILES):
        with place.path(f"{number}.wav").open("wb") as file:
            file.truncate(file_bytes)
    write_table(place, "m.csv", [{"conversationId": f"c{n}", "audioPath": f"{n}.wav"} for n in range(FILES)])
    tls = ("--certificate", certificate, "--key", key)
    server = place.serve("--limit", str(FILES), "--counts-uploads", "--job-seconds-per-mebibyte", "0", *tls)
    assert server.base_url.startswith("https://")
    place.use(server)
    place.environment["SSL_CERT_FILE"] = str(authority)
    measure = (sys.executable, "-S", "-c", MEASURE)
    running = place.start("run", "m.csv", "--limit", str(FILES), "--uploads", str(FILES), before=measure)
    assert running.wait(DEADLINE_SECONDS * 3).code == 0
    assert statuses(place.path("m.results.csv")) == ["completed"] * FILES
    assert [put.bytes for put in server.journal.appended()] == [file_bytes] * FILES
    assert server.journal.peak_live() == FILES
    peak = int(place.path("peak").read_text(encoding="utf-8"))
    assert peak < MOST_BYTES, f"{peak / 2**20:.1f} MiB at {FILES} files of {file_bytes >> 20} MiB"
