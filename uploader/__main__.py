"""The command `uploader`, and ``python -m uploader``."""

import gc


def main() -> None:
    """Run the command line, and exit."""
    # what imports make stays to the end: looking through it for garbage, again and again, is a tenth of a start;
    # a command collects as ever once it begins its work (cli/commands.py)
    gc.disable()
    from uploader.cli import main as run  # noqa: PLC0415 - as just said

    try:
        run()
    finally:
        # the interpreter looks through everything once more as it ends, and all of it ends with the process anyway
        gc.freeze()


if __name__ == "__main__":
    main()
