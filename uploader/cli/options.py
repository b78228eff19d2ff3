"""The flags of the commands, generated from the settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from uploader import parameters
from uploader.settings import ENVIRONMENT_PREFIX, SECRETS, Setting, Settings, settings_of

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(command: str) -> Callable[[F], F]:
    """Decorate a command with ``--config`` and the flags of the settings that name it."""

    def decorate(function: F) -> F:
        for name, setting in reversed(settings_of(Settings).items()):
            if command in setting.commands:
                function = _option(name, setting)(function)
        return _config(function)

    return decorate


class GroupedCommand(click.Command):
    """A command that shows the options of each group below a heading of its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of no group first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option of a group."""

    def __init__(self, *names: Any, group: str, **given: Any) -> None:
        super().__init__(*names, **given)
        self.group = group


class ManifestCommand(GroupedCommand):
    """A command that takes a manifest; its help lists the columns."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Append the columns to the help, generated from the table of parameters."""
        own = [
            ("conversationId", "the conversation to append to; every row has one"),
            ("audioPath", "the audio file; every row has one"),
            ("contentType", f"{', '.join(parameters.CONTENT_TYPES)}; empty for other formats"),
            ("x-…", "your own columns: they come back in the results"),
        ]
        with formatter.section("Columns of MANIFEST"):
            formatter.write_dl(own)
        with formatter.section("Columns of MANIFEST and keys of [parameters] in the config file"):
            formatter.write_dl(
                [
                    (parameter.name, f"{parameter.meaning}  [{parameter.rule}]")
                    for parameter in parameters.TABLE.values()
                ]
            )
        super().format_epilog(ctx, formatter)


# line and item numbers are 63-bit integers in the ledger
_MOST_DIGITS = 18


def manifest_lines(text: str) -> tuple[int, ...]:
    """Parse line numbers of a manifest, such as "17, 56" in the summary.

    Raises:
        BadParameter: A part of it is no line.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) <= _MOST_DIGITS and int(part)):
            raise click.BadParameter(f"{text!r}: {part!r} is no line: write whole numbers from 1 on, such as 17,56")
    return tuple(int(part) for part in parts)


def environment_help() -> str:
    """Describe where settings without a flag come from, for the end of ``--help``."""
    names = ", ".join(ENVIRONMENT_PREFIX + name.upper() for name in SECRETS)
    return (
        f"Secrets come from the environment ({names}), from a file that it names (the same with _FILE at its end) or "
        "from the secrets folder (/run/secrets or UPLOADER_SECRETS_DIR; uploader_app_secret, …), never from a flag; "
        "files are read again for every token. Every option is "
        f"also {ENVIRONMENT_PREFIX}OPTION in the environment and option in the config file; a flag outranks the "
        "environment, that the secrets folder, that the file."
    )


class _SettingOption(GroupedOption):
    """A setting's flag; its default is computed when the help asks for it."""

    def __init__(self, *names: Any, setting: Setting, **given: Any) -> None:
        super().__init__(*names, group=setting.group, **given)
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Append the default to the setting's meaning."""
        default = self.setting.default() if callable(self.setting.default) else self.setting.default
        text = str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)
        shown = super().get_help_record(ctx)
        return shown if shown is None or default in (None, "") else (shown[0], f"{shown[1]}  [default: {text}]")


def _config(function: F) -> F:
    return click.option(
        "--config",
        metavar="FILE",
        envvar="UPLOADER_CONFIG",
        type=click.Path(path_type=Path),
        help="the config file, TOML  [default: none]",
    )(function)


def _option(name: str, setting: Setting) -> Callable[[F], F]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(setting.default, bool):
        return click.option(
            flag, name, cls=GroupedOption, group=setting.group, is_flag=True, default=None, help=setting.meaning
        )
    return click.option(
        flag, name, cls=_SettingOption, setting=setting, metavar=setting.metavar, default=None, help=setting.meaning
    )
