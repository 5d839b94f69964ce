"""Immutable classes whose objects a function makes that takes a ``factory=``: it is given a subclass.

Only these: a subclass under the old name, for all, would change results. Objects that a program's own factory
makes are not watched.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from lifecycle.watch.methods import Watching, exchange
from lifecycle.watch.patches import hidden

FACTORIES = {"sqlite3.Connection": (("sqlite3", "connect"), ("sqlite3.dbapi2", "connect"))}
"""The class, and where its functions stand."""


def served(module: ModuleType, watching: Watching) -> bool:
    """Watch a class by its factory. Returns False for what has none."""
    functions = FACTORIES.get(watching.name)
    if functions is None:
        return False
    cls = watching.cls
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    made: Any = type(cls.__name__, (cls,), names)
    watching.cls = made
    if exchange(watching):
        return False
    for name, function in functions:
        of = module if module.__name__ == name else sys.modules.get(name)
        original = getattr(of, function, None)
        if of is not None and original is not None:
            setattr(of, function, _with_factory(original, made))
    return True


FACTORY_AT = 5
"""Where in `sqlite3.connect` the factory may stand, as a positional argument."""


def _with_factory(original: Any, made: type) -> Any:
    def connect(original: Any, args: Any, more: Any) -> Any:
        if len(args) <= FACTORY_AT and "factory" not in more:
            more["factory"] = made
        return original(*args, **more)

    return functools.update_wrapper(hidden(connect, original), original)
