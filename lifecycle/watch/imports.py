"""Modules that are not imported yet: what is to be done when they are.

They are waited for by a finder at the front of ``sys.meta_path``. The finder lets the others find the module,
calls what was asked for when the module has been executed, gives the module its own loader back, and goes
when nothing is waited for. A module that is looked for but not executed (`importlib.util.find_spec`), or
whose execution fails, is waited for on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lifecycle.watch.journal import journal
from lifecycle.watch.unseen import internal

Then = Callable[[ModuleType], object]


def when_imported(name: str, then: Then) -> None:
    """Call ``then(module)`` when a module has been executed: now, where it has. What it raises is one line on
    standard error."""
    module = sys.modules.get(name)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        _finder.wait_for(name, then)
    else:
        then(module)


class _Finder:
    """Waits for modules."""

    def __init__(self) -> None:
        self.waited: dict[str, list[Then]] = {}

    def wait_for(self, name: str, then: Then) -> None:
        self.waited.setdefault(name, []).append(then)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.waited:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Executes(spec.loader)
                elif hasattr(spec.loader, "load_module"):
                    spec.loader = _Loads(spec.loader, spec)  # type: ignore[assignment]
                return spec
        return None

    def executed(self, name: str, module: ModuleType) -> None:
        """Wait for this one no longer."""
        asked = self.waited.pop(name, [])
        if not self.waited and self in sys.meta_path and threading.active_count() == 1:
            # Of other threads one may be walking through the list.
            sys.meta_path.remove(self)
        for then in asked:
            try:
                then(sys.modules.get(name, module))
            except Exception as error:
                journal.say(f"{name} is not watched: {type(error).__name__}")


class _Executes(Loader):
    """The loader of one module, for its execution."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        loader = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = loader
        module.__loader__ = loader
        loader.exec_module(module)
        _finder.executed(module.__name__, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Loads:
    """A loader of the old kind, without ``exec_module``: PyGObject's is one."""

    def __init__(self, loader: Any, spec: ModuleSpec) -> None:
        self._loader, self._spec = loader, spec

    # It warns of what is imported without a version, at the line of the import.
    @internal
    def load_module(self, name: str) -> ModuleType:
        loader = self._spec.loader = self._loader
        module: ModuleType = loader.load_module(name)
        _finder.executed(name, module)
        return module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


_finder = _Finder()
