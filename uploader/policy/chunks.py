"""Decides the size of the chunks in which files are read: few uploads get large chunks, many get smaller ones."""

# memory for the chunks of all uploads at once
BUDGET_BYTES = 16 * 1024 * 1024
# measured: twice as much costs no less CPU a byte; an eighth of it costs twice as much, for each chunk's wait
MOST_BYTES = 1024 * 1024
LEAST_BYTES = 128 * 1024


def chunk_bytes(uploads: int) -> int:
    """Return how many bytes of its file an upload reads at once.

    Args:
        uploads: How many there may be at once.

    Returns:
        A power of two.
    """
    share = max(BUDGET_BYTES // uploads, 1)
    return min(max(1 << (share.bit_length() - 1), LEAST_BYTES), MOST_BYTES)
