"""Deferred modules: a stand-in until a name is used, and the module itself from then on."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from uploader.deferred import DeferredModule, defer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a package with a module; nothing of it is imported afterwards."""
    (tmp_path / "put_off").mkdir()
    (tmp_path / "put_off" / "__init__.py").write_text("VALUE = [1]\n", encoding="utf-8")
    (tmp_path / "put_off" / "inner.py").write_text("VALUE = [2]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "put_off"
    for name in [name for name in sys.modules if name.partition(".")[0] == "put_off"]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    """Return a module as ``import`` gives it."""
    __import__(name)
    return sys.modules[name]


def test_a_module_is_imported_when_a_name_is_used(package: str) -> None:
    """Whoever imported the stand-in gets the module's own values; later imports get the module."""
    defer(package)
    stand_in = module(package)
    assert isinstance(stand_in, DeferredModule)
    value = stand_in.VALUE
    assert not isinstance(sys.modules[package], DeferredModule)
    assert value is sys.modules[package].VALUE
    assert value is stand_in.VALUE


def test_a_known_name_imports_nothing(package: str) -> None:
    """A name whose value is given is used without the module, and has the module's own value later."""
    defer(package, VALUE=[0])
    stand_in = module(package)
    assert stand_in.VALUE == [0]
    assert sys.modules[package] is stand_in
    assert stand_in.__file__ is not None
    assert stand_in.VALUE == [1]


def test_a_module_of_a_deferred_package_is_imported(package: str) -> None:
    """To import a module of it imports the package; no name of it is missing."""
    defer(package)
    assert module(f"{package}.inner").VALUE == [2]
    assert not isinstance(sys.modules[package], DeferredModule)


def test_a_deferred_module_is_an_attribute_of_its_package(package: str) -> None:
    """``from package import module`` gives the stand-in, and the module once it is imported."""
    defer(f"{package}.inner")
    inner = module(package).inner
    assert isinstance(inner, DeferredModule)
    assert inner.VALUE == [2]
    assert module(package).inner is sys.modules[f"{package}.inner"]


def test_a_name_that_the_module_has_not_is_missing(package: str) -> None:
    """The error is the module's own."""
    defer(package)
    with pytest.raises(AttributeError, match="'put_off' has no attribute 'OTHER'"):
        _ = module(package).OTHER


def test_what_is_imported_already_stays(package: str) -> None:
    """A program that has imported the module keeps it."""
    before = module(package)
    defer(package)
    assert module(package) is before
