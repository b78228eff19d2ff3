"""The command `uploader`, and ``python -m uploader``."""

import atexit
import gc
import os
import sys


def main() -> None:
    """Run the command line, and exit."""
    # what imports make stays to the end: looking through it for garbage, again and again, is a tenth of a start;
    # a command collects as ever once it begins its work (cli/ending.py)
    gc.disable()
    codes: list[int] = []
    # registered first, so that it is the last thing of this process
    atexit.register(_leave, codes)
    from uploader import early_signals  # noqa: PLC0415 - as just said

    early_signals.hold()
    from uploader.deferred import defer_all  # noqa: PLC0415 - as just said

    defer_all()
    from uploader.cli import main as run  # noqa: PLC0415 - as just said

    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, int):
            codes.append(end.code)
        raise


def _leave(codes: list[int]) -> None:
    """End the process with a code, without freeing each of its objects: all of them end with it (10 ms)."""
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    main()
