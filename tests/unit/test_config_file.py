"""The config file that is shipped says what the code says."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from uploader import parameters
from uploader.settings import SECRETS, Secret, Settings, settings_of
from uploader.settings.loading import load

PATH = Path(__file__).parents[2] / "config" / "uploader.toml"
TABLE = re.compile(r"^#? ?\[([a-z_.]+)\]$")
KEY = re.compile(r"^#? ?([A-Za-z_]+) = (.+)$")
# tables with keys of the service, not of the settings
# the account in the example
ACCOUNT = "north"
OPEN_TABLES = ("parameters", "extra_parameters")

Shown = Mapping[tuple[str, str], tuple[Any, bool]]


@pytest.fixture(scope="module")
def shown() -> Shown:
    """Every key that the file shows, by table and name: its value, and whether it is commented out."""
    found: dict[tuple[str, str], tuple[Any, bool]] = {}
    table = ""
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if header := TABLE.match(line):
            table = header[1]
        elif key := KEY.match(line):
            assert (table, key[1]) not in found, f"{key[1]} is shown twice"
            found[table, key[1]] = (tomllib.loads(f"value = {key[2]}")["value"], line.startswith("#"))
    return found


def tables() -> Mapping[str, type[Any]]:
    """The tables of the settings, by their names; "" is what stands above them."""
    return {
        "": Settings,
        **{name: setting.table for name, setting in settings_of(Settings).items() if setting.table is not None},
        **{f"{name}.{ACCOUNT}": setting.tables for name, setting in settings_of(Settings).items() if setting.tables},
    }


def expected() -> Mapping[tuple[str, str], Any]:
    """Every key that the code has, and its default; None where it has none to be written down."""
    found: dict[tuple[str, str], Any] = {("parameters", name): None for name in parameters.TABLE}
    for table, kind in tables().items():
        for name, setting in settings_of(kind).items():
            is_table = setting.table is not None or setting.tables is not None
            if name not in OPEN_TABLES and name not in SECRETS and (table or not is_table):
                found[table, name] = None if callable(setting.default) else setting.default
    return found


def test_the_config_file_shows_every_key_and_no_other(shown: Shown) -> None:
    """A setting that is added, renamed or removed changes config/uploader.toml too; secrets are never in it."""
    assert set(shown) == set(expected())


def test_the_config_file_shows_every_default(shown: Shown) -> None:
    """A key with a default is set to it; one without is a commented example."""
    for key, default in expected().items():
        value, commented = shown[key]
        if default is None:
            assert commented, f"{key} has no default: it is shown as an example, commented out"
        else:
            assert value == (list(default) if isinstance(default, tuple) else default), key
            assert type(value) is (list if isinstance(default, tuple) else type(default)), key


def test_the_config_file_loads_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run with the shipped file is a run with the defaults."""
    monkeypatch.setenv("UPLOADER_SECRETS_DIR", str(tmp_path))
    assert load({}, PATH) == load({}, None)


def test_the_examples_are_right(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commented example, uncommented, is a value that the settings take."""
    monkeypatch.setenv("UPLOADER_SECRETS_DIR", str(tmp_path))
    lines = PATH.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "all.toml"
    path.write_text("\n".join(line.lstrip("# ") for line in lines if TABLE.match(line) or KEY.match(line)))
    settings = load({}, path)
    parameters.check_config(settings.parameters, settings.extra_parameters, "all.toml")
    for (table, name), (value, commented) in shown.items():
        if commented and table not in OPEN_TABLES:
            holder: Any = settings
            if table:
                first, _, inner = table.partition(".")
                holder = getattr(settings, first)[inner] if inner else getattr(settings, first)
            taken = getattr(holder, name)
            assert str(taken.get_secret_value() if isinstance(taken, Secret) else taken) == str(value)
