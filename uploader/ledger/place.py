"""Checks the place of a ledger: folder, permissions, file system, container."""

import os
from pathlib import Path

from uploader.errors import UsageError

# the kernel's list of mounts (proc(5)); Linux alone has it
MOUNTS = Path("/proc/self/mountinfo")

ROOT = Path("/")

# file systems on which SQLite's write-ahead log does not work: its index is shared memory of one machine
NETWORK_FILE_SYSTEMS = frozenset(
    [
        *("afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    ]
)

# root file systems of container runtimes, whose upper layer is deleted with the container
CONTAINER_FILE_SYSTEMS = frozenset(["aufs", "fuse.fuse-overlayfs", "overlay"])


def check_place(path: Path) -> None:
    """Check that a ledger can be read, written and made at ``path``.

    Raises:
        UsageError: Its folder is missing or not writable, or it lies on a network file system.
    """
    folder = path.parent
    try:
        device = folder.stat().st_dev
    except OSError as error:
        raise UsageError(
            f"ledger {path}: its folder {folder} cannot be used ({error.strerror}): make or mount it, or name "
            "another with --ledger sqlite:////path/ledger.db"
        ) from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"ledger {path}: its folder {folder} is not writable: make it so, or name another")
    if path.exists() and (not path.is_file() or not os.access(path, os.W_OK, effective_ids=True)):
        raise UsageError(f"ledger {path}: it is no file that can be written: name another, or give leave to write")
    kind = file_system(MOUNTS, device)
    if kind in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"ledger {path}: it lies on a network file system ({kind}), where SQLite's write-ahead log does not "
            "work: put it on a local disk"
        )


def check_outlives_container(path: Path) -> None:
    """Refuse to make a ledger that would be deleted with its container.

    Raises:
        UsageError: The root file system is a container's, and the ledger's folder is not mounted from outside it.
    """
    folder, root = path.parent, ROOT.stat().st_dev
    if folder.stat().st_dev == root and file_system(MOUNTS, root) in CONTAINER_FILE_SYSTEMS:
        raise UsageError(
            f"ledger {path}: there is none, and {folder} is on the container's own file system: the ledger would be "
            "thrown away with the container, and the next one would append everything again. Mount a volume or a "
            f"folder of the host at {folder} (--volume uploader-state:{folder}), or name a mounted folder with "
            "--ledger; with --new-ledger it is made all the same. Nothing was sent"
        )


def file_system(mountinfo: Path, device: int) -> str | None:
    """Return the kind of file system of a device number; None where the kernel does not say.

    Args:
        mountinfo: The kernel's list of mounts.
        device: ``st_dev`` of a file on it.
    """
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, source = line.partition(" - ")
        if source and mount.split()[2] == wanted:
            return source.split()[0]
    return None
