"""Modules that are imported when one of their names is first used."""

import sys
from _thread import allocate_lock
from importlib import import_module
from inspect import iscoroutine
from types import ModuleType
from typing import Any

# SQLAlchemy imports them at its own import and uses them in a program that awaits its statements, or has plugins for
# it; asyncio brings ssl and sockets with it: 0.04 s in each command that has no event loop
NAMES = ("asyncio", "importlib.metadata")
_LOCK = allocate_lock()


class DeferredModule(ModuleType):
    """The stand-in for a module, which it imports, and whose names it has from then on."""

    def __getattr__(self, name: str) -> Any:
        """Import the module, and return the value of a name in it."""
        # another thread may be importing it: the real module, which the import below waits for
        with _LOCK:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        module = import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


def defer(name: str, **known: object) -> None:
    """Let later imports of a module give a stand-in, unless it is imported already.

    Args:
        name: The module's full name; a package that it is in is imported.
        **known: The values of names that need no import.
    """
    if name in sys.modules:
        return
    stand_in = DeferredModule(name)
    stand_in.__dict__.update(known)
    sys.modules[name] = stand_in
    package, _, own_name = name.rpartition(".")
    if package:
        setattr(import_module(package), own_name, stand_in)


def defer_all() -> None:
    """Defer what most commands have no use for; a new name that SQLAlchemy uses at its import costs time, no more."""
    for name in NAMES:
        defer(name, **({"iscoroutine": iscoroutine} if name == "asyncio" else {}))
