"""Where things were made, noted while somebody wants to know: `lifecycle.testing.leaks`.

Nothing of this is in the way of a program that does not ask: the methods concerned are wrapped when the first
block that asks begins, and are their old selves when the last has ended.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.handle import Handle
from lifecycle.manager import manager as manager_module
from lifecycle.manager.manager import SafetyManager
from lifecycle.observe import leaks

EVERY_SITE = (0, 0)
"""What `leaks.SITES` says of a level at which every registration notes its site."""


class Notes:
    """Sites as ``file.py:31``, by what was made there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._undo: list[Callable[[], object]] = []
        self.leases: dict[
            int, tuple[int, str]
        ] = {}  # by identity, which may be used again: with the object's id
        self.views: dict[int, str] = {}  # the latest, by the object's id
        self.threads: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
        self.managers: weakref.WeakKeyDictionary[SafetyManager, str] = weakref.WeakKeyDictionary()

    def begin(self) -> None:
        """Note from here on; once more for each that asks."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._every_registration()
            self._around(Handle, "lease", lambda handle, lease, at: self._lease(handle.id, lease, at))
            self._around(Handle, "view", lambda handle, view, at: self.views.__setitem__(handle.id, at))
            self._around(
                threading.Thread, "start", lambda thread, _, at: self.threads.__setitem__(thread, at)
            )
            self._around(
                SafetyManager, "__init__", lambda manager, _, at: self.managers.__setitem__(manager, at)
            )

    def end(self) -> None:
        """The opposite of one `begin`."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            while self._undo:
                self._undo.pop()()
            self.leases.clear()
            self.views.clear()

    def _lease(self, id: int, lease: object, at: str) -> None:
        self.leases[_identity(lease)] = (id, at)

    def _every_registration(self) -> None:
        sites = leaks.SITES
        before = dict(sites)
        self._undo.append(lambda: sites.update(before))
        sites.update(dict.fromkeys(sites, EVERY_SITE))
        for manager in runtime.snapshot(manager_module._managers):
            for kind in runtime.snapshot(manager._registry.kinds.values()):
                self._undo.append(functools.partial(setattr, kind, "site_mask", kind.site_mask))
                kind.site_mask = EVERY_SITE[0]
                kind.left = 1

    def _around(self, owner: Any, name: str, note: Callable[[Any, Any, str], object]) -> None:
        """Have ``note(self, what the method returned, where it was called)`` called after the method `name`
        of `owner`."""
        method = vars(owner)[name]

        @functools.wraps(method)
        def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
            made = method(self, *args, **kwargs)
            note(self, made, runtime.describe_site(runtime.site_of(runtime.caller(2))))
            return made

        setattr(owner, name, noting)
        self._undo.append(functools.partial(setattr, owner, name, method))


_identity = id

notes: Notes = Notes()
