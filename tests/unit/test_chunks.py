"""How much of a file is read at once."""

import pytest

from uploader.policy.chunks import BUDGET_BYTES, LEAST_BYTES, MOST_BYTES, chunk_bytes

KIBIBYTE = 1024


@pytest.mark.parametrize(
    ("uploads", "kibibytes"),
    [(1, 1024), (2, 1024), (16, 1024), (17, 512), (32, 512), (64, 256), (100, 128), (128, 128), (1000, 128)],
)
def test_few_uploads_get_large_chunks_and_many_get_smaller_ones(uploads: int, kibibytes: int) -> None:
    """Chunk sizes follow the table by the number of uploads."""
    assert chunk_bytes(uploads) == kibibytes * KIBIBYTE


def test_chunks_keep_to_the_budget() -> None:
    """Up to the number at which the least chunk is reached, all together never take more than the budget."""
    sizes = [chunk_bytes(uploads) for uploads in range(1, 1001)]
    assert sizes == sorted(sizes, reverse=True)
    for uploads, size in enumerate(sizes, start=1):
        assert LEAST_BYTES <= size <= MOST_BYTES
        assert uploads * size <= BUDGET_BYTES or size == LEAST_BYTES
