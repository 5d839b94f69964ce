"""What a frame registers: a mapping of a buffer for reading, and its entry in the table of live ones.

A memory is mapped once, however many frames look into it: GStreamer's memory takes 256 mappings at a time and
breaks at the next. The table finds a live mapping by the memory's address. That is sound because the mapping
holds the memory: while there is a live entry, no other object can have the address.
"""

from __future__ import annotations

import weakref
from ctypes import addressof
from functools import partial
from typing import Any

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle.integrations.gstreamer._native import (
    ANY,
    MAP_READ,
    Mapping,
    is_fd_memory,
    map_one_memory,
    memory_count,
    memory_of,
    memory_size,
    short_fd_memory,
    unmap_foreign,
)
from lifecycle.integrations.gstreamer.errors import MapError, ShortMemoryError
from lifecycle.lowlevel import Facts, holders

__all__ = ["Held", "Live", "check_memories", "end_held", "names_of_holders", "no_mapping", "open_memory"]

Live = dict[int, "weakref.ref[Any]"]


class Held(Mapping):
    """The native object of a frame: the mapping, and its entry ``live[key]`` in the table of live ones."""

    __slots__ = ("key", "live")
    live: Live | None
    key: int


def end_held(held: Held) -> None:
    """The release function of every frame: leave the table and unmap. The sample goes with `held` itself."""
    try:
        live = held.live
        if live is not None:
            live.pop(held.key, None)
    finally:
        if held.memory is not None:
            held.__del__()


def names_of_holders(target: Handle[Any] | Facts, own: int = 0) -> tuple[str, ...]:
    """Who holds a frame's memory, in words, also after its handle is closed; `own` open handles are not told.
    Looks through the whole heap."""
    found = holders(target)
    shares = sum(holder.kind == "share" for holder in found) - own
    names = [f"{shares} other share(s)"] if shares > 0 else []
    for holder in found:
        if holder.kind != "share":
            bare = holder.what.startswith(("view", "lease", "access"))
            names.append(f"a {holder.what}" if bare else holder.what)
    return tuple(names)


def check_memories(whose: Any, buffer: int) -> None:
    """Refuse memory of a file that is shorter than it says: a mapping reaches past the end of a short file
    without an error, and reading there (several memories are read by mapping them) kills the process."""
    for index in range(memory_count(buffer)):
        memory = memory_of(buffer, index)
        short = short_fd_memory(memory) if is_fd_memory(memory) else None
        if short is not None:
            fd, needed, there = short
            raise ShortMemoryError(
                f"{whose}: its memory is fd {fd} and says it has {needed} bytes, but the file has {there}, "
                "and reading on would be a SIGBUS; the producer must size the file (ftruncate) before it "
                "pushes the buffer, and never shrink it"
            )


def no_mapping(whose: Any) -> MapError:
    """The error for memory that GStreamer does not map."""
    return MapError(
        f"{whose}: GStreamer cannot map this memory for reading; take a sample from system memory (a "
        "converter or download element before the sink), or use frame.native for the memory's own interface"
    )


def open_memory(
    manager: SafetyManager,
    live: Live,
    whose: Any,
    parent: Handle[Held],
    sample: Any,
    buffer: int,
    index: int,
    type_name: str,
) -> tuple[Handle[Held], memoryview]:
    """Register and map one of a buffer's several memories where it lies, as a child of the frame: its handle
    and its view."""
    held = Held()
    held.sample = sample
    held.buffer = buffer
    held.live = None
    held.__del__ = partial(next, map(unmap_foreign, ANY, (addressof(held),)), None)
    held.key = key = memory_of(buffer, index)
    handle = owner = view = None
    try:
        known = live.get(key)
        if known is not None:
            owner = known()
        if owner is None and not map_one_memory(buffer, index, held, MAP_READ):
            raise no_mapping(whose)
        size = memory_size(key)
        handle = manager.register(
            held,
            type_name,
            parent=parent,
            size=size,
            release=end_held,
            release_on=ANY_THREAD,
        )
        if owner is not None:
            view = memoryview(owner).cast("B")[:size].toreadonly()
        elif held.size and held.data is not None:
            view = handle.view(held.data, held.size)
            live[key] = weakref.ref(view.obj)
            held.live = live
        else:
            view = memoryview(b"")
        return handle, view
    except BaseException:
        if handle is not None:
            handle.close()
        end_held(held)
        raise
    finally:
        owner = view = None
