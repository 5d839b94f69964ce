"""Files that a process was making when it was killed. The engine does not remove them.

It makes a file in steps, and the rights of the file say how far it came: a tag or a service is done when it
is 0400, a piece of shared memory when it may be read. What is not done is taken for a file that somebody
still makes. So the engine passes over a tag, and cannot remove its folder; no topic can be made under the
name of a service; and for a piece of shared memory **the removal of its dead maker waits for ever**.

What is removed here had a maker of which the engine says that it is dead, or is of nobody whom the engine
knows, and old. A file's maker is in its name: each identity of the engine has the number of its process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from stat import S_IMODE
from typing import Final

__all__ = ["Place"]

BEING_MADE: Final = {".service_tag": 0o600, ".port_tag": 0o600, ".service": 0o600}
"""The rights of what is not done yet, by the ends of names."""
SHARED_BEING_MADE: Final = 0o200
OLD: Final = 60.0
"""Seconds after which a file that is not done is of no running process: each step takes microseconds, and on
a busy disk parts of a second."""
_MONITOR: Final = (".node_monitor", ".node_monitor_context", ".node_monitor_owner_lock")


def process_of(identity: int) -> int:
    """The number of the process that made an identity of the engine's."""
    return (identity >> 64) & 0xFFFF_FFFF


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from list(found)
    except OSError:
        # None, or another user's: nothing there is ours to remove.
        return


def _mode(entry: os.DirEntry[str]) -> int:
    """Its rights; 0 for what is gone."""
    try:
        return S_IMODE(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return 0


def _is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_ctime > OLD
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        # Another process has removed it.
        return


def _runs(pid: int) -> bool:
    """True if a process of that number runs, as far as this one sees; also where it cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Place:
    """Where the engine's files lie."""

    __slots__ = ("nodes", "prefix", "services", "shared")

    def __init__(self, root: str, prefix: str, shared: str) -> None:
        self.nodes: str = os.path.join(root, "nodes")
        self.services: str = os.path.join(root, "services")
        self.prefix = prefix
        self.shared = shared

    def finish(self, identity: int, living: Iterable[int]) -> bool:
        """Remove what a dead node was just making; False where that might be a living node's. Raises
        `OSError`."""
        pid = process_of(identity)
        unfinished = [entry.path for entry, makers in self._unfinished() if pid in makers]
        if unfinished and pid in map(process_of, living):
            # The number was given again.
            return False
        for path in unfinished:
            _remove(path)
        folder = os.path.join(self.nodes, str(identity))
        for entry in _entries(folder):
            ending = os.path.splitext(entry.name)[1]
            if ending == ".service_tag" and not self._has_tag(entry.name, living):
                self._finish_service(entry.name)
            if _mode(entry) == BEING_MADE.get(ending):
                _remove(entry.path)
        return True

    def _unfinished(self) -> Iterator[tuple[os.DirEntry[str], set[int]]]:
        """The pieces of shared memory that are not done, with the processes of which one makes it."""
        for entry in _entries(self.shared):
            if entry.name.startswith(self.prefix) and _mode(entry) == SHARED_BEING_MADE:
                words = entry.name[len(self.prefix) :].partition(".")[0].split("_")[1:]
                yield entry, {process_of(int(word)) for word in words if word.isdecimal()}

    def _has_tag(self, tag: str, nodes: Iterable[int]) -> bool:
        """True if one of these nodes is at the service of a tag: whoever makes one has its tag before."""
        return any(os.path.exists(os.path.join(self.nodes, str(node), tag)) for node in nodes)

    def _finish_service(self, tag: str) -> None:
        path = os.path.join(self.services, f"{os.path.splitext(tag)[0]}.service")
        try:
            if S_IMODE(os.stat(path).st_mode) == BEING_MADE[".service"]:
                _remove(path)
        except FileNotFoundError:
            return

    def sweep(self, living: set[int], dead: set[int]) -> int:
        """Remove what is old, not done, and of nobody whom the engine knows; how much of it could not be
        removed."""
        known = {process_of(node) for node in living | dead}
        for entry, makers in self._unfinished():
            if not makers & known and _is_old(entry) and not any(map(_runs, makers)):
                _remove(entry.path)
        for entry in _entries(self.services):
            tag = f"{os.path.splitext(entry.name)[0]}.service_tag"
            if (
                _mode(entry) == BEING_MADE[".service"]
                and _is_old(entry)
                and not self._has_tag(tag, living | dead)
            ):
                _remove(entry.path)
        return sum(not self._remove_node(node) for node in self._unknown(living | dead))

    def _unknown(self, known: set[int]) -> list[os.DirEntry[str]]:
        """The folders of nodes that were not done when their processes ended: the engine does not list
        them."""
        return [
            entry
            for entry in _entries(self.nodes)
            if entry.name.isdecimal()
            and int(entry.name) not in known
            and not _runs(process_of(int(entry.name)))
        ]

    def _remove_node(self, folder: os.DirEntry[str]) -> bool:
        """Remove the folder of a node that was not done; whether it is gone."""
        if _is_old(folder):
            for entry in _entries(folder.path):
                _remove(entry.path)
            for ending in _MONITOR:
                _remove(os.path.join(self.nodes, f"{self.prefix}{folder.name}{ending}"))
            with contextlib.suppress(OSError):
                # Not empty: another process is at it.
                os.rmdir(folder.path)
        return not os.path.exists(folder.path)
