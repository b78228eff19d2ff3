"""`uploader help`: the guides, which are files of the package, in the terminal."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from uploader.cli.printing import print_lines

FOLDER = Path(__file__).parents[1] / "docs"
# lines longer than this are hard to read, however wide the terminal
WIDEST = 110


def topics() -> dict[str, Path]:
    """Return the guides by topic."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.md"))}


def format_topics() -> Iterator[str]:
    """Format the topics with the title of each guide."""
    found = topics()
    width = max(map(len, found))
    yield "Guides, each shown by `uploader help TOPIC`:"
    yield ""
    for topic, path in found.items():
        with path.open(encoding="utf-8") as file:
            yield f"  {topic:<{width}}  {file.readline().removeprefix('# ').strip()}"
    yield ""
    yield "`uploader help COMMAND` shows the options of a command, as `uploader COMMAND --help` does."


def show_help(cli: click.Group, words: tuple[str, ...]) -> None:
    """Show the list of topics, a guide, or the help of a command.

    Raises:
        click.UsageError: There is no such topic or command.
    """
    if not words:
        print_lines(format_topics())
        return
    guide = topics().get(words[0].lower()) if len(words) == 1 else None
    if guide is None:
        print_lines(_command_help(cli, words).splitlines())
    elif sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        click.echo_via_pager(render(guide.read_text(encoding="utf-8"), min(columns, WIDEST)), color=True)
    else:
        print_lines(guide.read_text(encoding="utf-8").splitlines())


def render(text: str, width: int) -> str:
    """Render Markdown for a terminal of this width."""
    from rich.console import Console  # noqa: PLC0415 - for those who read a guide on a terminal
    from rich.markdown import Markdown  # noqa: PLC0415 - as above

    console = Console(width=width, force_terminal=True, legacy_windows=False)
    with console.capture() as shown:
        console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
    return shown.get()


def _command_help(cli: click.Group, words: tuple[str, ...]) -> str:
    """Return the help of a command, which may be one of a group."""
    command: click.Command = cli
    context = click.Context(cli, info_name="uploader", **cli.context_settings)
    for word in words:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            raise click.UsageError(
                f"help {' '.join(words)}: no such topic or command: the topics are {', '.join(topics())}; the commands "
                f"{', '.join(cli.commands)}"
            )
        command = found
        context = click.Context(found, info_name=word, parent=context, **found.context_settings)
    return command.get_help(context)
