"""Textures by key, rebuilt on a change of context."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import attrs

from lifecycle import Handle
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.integrations.gpu.log import note
from lifecycle.integrations.gpu.opengl.names import check_text

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain


@attrs.frozen
class CacheStats:
    """The figures of a cache at one moment."""

    cache: str
    """The cache's name."""
    entries: int
    """Textures that it holds."""
    bytes: int
    """Native bytes, as given with ``size=`` to `Domain.own`."""
    hits: int
    """Requests that found their texture."""
    misses: int
    """Requests that had to make it."""
    rebuilds: int
    """Changes of context, after each of which every texture is made anew."""

    @property
    def gets(self) -> dict[str, int]:
        """Requests by what they ended in: ``hit`` or ``miss``."""
        return {"hit": self.hits, "miss": self.misses}

    def __call__(self) -> CacheStats:
        """Itself: ``cache.stats`` and ``cache.stats()`` are the same, as a component of a manager has it."""
        return self


class TextureCache:
    """Textures by key. Made by `Domain.cache`; to be used on the thread of its context.

    `make` is called with the key, in the context, and returns the handle of a texture, or its name. `get`
    gives a share of it, to be closed by the caller. The cache's own share goes with `discard`, `clear` and
    `close`; a texture is deleted when the last share is closed and the device is done with it.

    The entries belong to one context. Once its domain is lost the cache works in the domain that it is moved
    to (`move_to`): the old entries are orphaned by then, and `make` is asked anew.
    """

    kind = "texture_cache"
    """What it is as a component of a manager, in metrics."""

    def __init__(self, domain: Domain, make: Callable[[Any], Any], name: str) -> None:
        if not callable(make):
            raise GLError(f"cache() takes a function of the key that makes a texture, not {make!r}")
        check_text(name, "cache(name=)")
        self.name = name
        self._make = make
        self._domain = domain
        self._entries: dict[Hashable, Handle[int]] = {}
        self._hits = self._misses = self._rebuilds = 0
        domain.manager.add_component(self)

    @property
    def domain(self) -> Domain:
        """Where its textures live."""
        return self._domain

    def get(self, key: Hashable) -> Handle[int]:
        """A share of the texture of `key`, made if there is none. Raises what `make` raises, and
        `QueueLostError` where the context is gone and the cache was not moved to another."""
        try:
            entry = self._entries.get(key)
        except TypeError as error:
            raise GLError(f"get() of cache {self.name!r} takes a key that can be hashed: {error}") from error
        if entry is not None and entry.valid:
            self._hits += 1
            return entry.share()
        self._domain.check_here(f"get({key!r}) of cache {self.name!r}")
        self._misses += 1
        made = self._make(key)
        if not isinstance(made, Handle):
            made = self._domain.own("texture", made)
        self._domain.check_handle(made, "texture", f"make() of cache {self.name!r}")
        share: Handle[int] = made.share()
        self._entries[key] = made
        if entry is not None:
            entry.close()
        return share

    def move_to(self, domain: Domain) -> int:
        """Go on in another context: the entries of the old one are given up, or closed where it still lives.
        How many there were. Nothing happens in the domain that it is in."""
        if domain is self._domain:
            return 0
        if not callable(getattr(domain, "own", None)) or not callable(getattr(domain, "check_here", None)):
            raise GLError(f"move_to() takes the domain of the context that goes on, not {domain!r}")
        count = self.clear()
        old, self._domain = self._domain, domain
        self._rebuilds += 1
        note("gl.cache_rebuilt", cache=self.name, entries=count, old=old.name, new=domain.name)
        return count

    def discard(self, key: Hashable) -> bool:
        """Give up the cache's share of one texture; False where it has none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        entry.close()
        return True

    def clear(self) -> int:
        """Give up the cache's share of every texture; how many there were."""
        count = 0
        for key in list(self._entries):
            count += self.discard(key)
        return count

    close = clear

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    @property
    def stats(self) -> CacheStats:
        """Its figures at this moment."""
        live = [entry for entry in list(self._entries.values()) if entry.valid]
        return CacheStats(
            self.name, len(live), sum(entry.size for entry in live), self._hits, self._misses, self._rebuilds
        )

    def __repr__(self) -> str:
        return f"<TextureCache {self.name!r}: {len(self)} textures of {self._domain!r}>"
