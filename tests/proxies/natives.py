"""Natives for the tests of proxies: a file-like one with datasets, cursors, generators and memory, which fails
whoever touches it after its release."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, ItemsView, Iterator, KeysView, Mapping
from typing import Any


class Closed(Exception):
    """The native was touched after its end."""


class Part:
    """Belongs to a `Store`."""

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.key = key
        self.freed = 0

    def read(self) -> str:
        self.store.touch()
        if self.freed:
            raise Closed(self.key)
        return self.key

    def part(self, key: str) -> Part:
        self.store.touch()
        return Part(self.store, f"{self.key}/{key}")

    def owner(self) -> Store:
        return self.store

    def free(self) -> None:
        self.store.touch()
        self.freed += 1
        self.store.log.append(f"free {self.key}")

    def commit(self) -> str:
        self.read()
        self.freed += 1
        self.store.log.append(f"commit {self.key}")
        return "done"


class Store:
    """Stands for a native. `log` outlives it."""

    constant = 7

    class Kind:
        """A nested class."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log: list[str] = [] if log is None else log
        self.released = 0
        self.inside = 0
        self.label = "store"
        self.items_: dict[str, int] = {"a": 1, "b": 2}
        self.memory = bytearray(b"0123456789abcdef")
        self.kept: list[Any] = []

    def touch(self) -> None:
        if self.released:
            self.log.append("touched after release")
            raise Closed("store")

    def close(self) -> None:
        """Release it."""
        self.released += 1
        self.log.append("close")

    # -- plain

    def read(self) -> int:
        """Read one number."""
        self.touch()
        return 1

    def add(self, one: int, other: int = 1, *, more: int = 0) -> int:
        self.touch()
        return one + other + more

    def same(self) -> Store:
        self.touch()
        return self

    def both(self) -> tuple[Store, int]:
        return self, 1

    def fail(self) -> None:
        self.touch()
        raise ZeroDivisionError("failed")

    def call(self, function: Any, *args: Any) -> Any:
        self.touch()
        try:
            return function(*args)
        finally:
            self.touch()

    def take(self, other: Any, *others: Any, **named: Any) -> list[str]:
        self.touch()
        return [type(one).__name__ for one in (other, *others, *named.values())]

    def first_of(self, one: Any) -> Any:
        return one[0] if isinstance(one, list) else one

    @classmethod
    def made(cls) -> str:
        return cls.__name__

    @staticmethod
    def helped(number: int) -> int:
        return number + 1

    more = functools.partialmethod(add, 10)

    @property
    def size(self) -> int:
        self.touch()
        return len(self.items_)

    def save(self) -> str:
        self.touch()
        self.released += 1
        self.log.append("save")
        return "saved"

    def save_badly(self) -> None:
        self.touch()
        raise OSError("disk full")

    # -- children

    def part(self, key: str) -> Part:
        self.touch()
        self.log.append(f"part {key}")
        return Part(self, key)

    def parts(self, *keys: str) -> list[Part]:
        return [self.part(key) for key in keys]

    def named(self) -> dict[str, Part]:
        return {"a": self.part("a")}

    def method_of_own(self) -> Any:
        return self.read

    # -- steps

    def steps(self, number: int) -> Iterator[int]:
        try:
            for one in range(number):
                self.touch()
                yield one
        finally:
            self.log.append("finally")
            self.touch()

    def part_steps(self, number: int) -> Iterator[Part]:
        for one in range(number):
            yield self.part(str(one))

    def mapped(self) -> Iterator[str]:
        return map(self._upper, "abc")

    def _upper(self, text: str) -> str:
        self.touch()
        return text.upper()

    async def later(self, hold: Any = None) -> int:
        self.touch()
        if hold is not None:
            await hold
        self.touch()
        return 5

    async def later_self(self) -> Store:
        return self

    async def async_steps(self, number: int) -> AsyncIterator[int]:
        try:
            for one in range(number):
                self.touch()
                yield one
        finally:
            self.log.append("async finally")
            self.touch()

    # -- memory

    def view(self) -> memoryview:
        self.touch()
        return memoryview(self.memory)

    def raw_memory(self) -> bytearray:
        return self.memory

    # -- special

    def __len__(self) -> int:
        self.touch()
        return len(self.items_)

    def __getitem__(self, key: str) -> int:
        self.touch()
        return self.items_[key]

    def __setitem__(self, key: str, value: int) -> None:
        self.touch()
        self.items_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items_[key]

    def __contains__(self, key: object) -> bool:
        return key in self.items_

    def __iter__(self) -> Iterator[str]:
        self.touch()
        return iter(self.items_)

    def __call__(self, number: int) -> int:
        self.touch()
        return number * 2

    def __add__(self, other: object) -> int:
        self.touch()
        return len(self.items_) + (other if isinstance(other, int) else len(other))  # type: ignore[arg-type]

    def __radd__(self, other: int) -> int:
        return other + len(self.items_)

    def __iadd__(self, other: int) -> Store:  # type: ignore[misc]
        self.items_["c"] = other
        return self

    def __enter__(self) -> Store:
        self.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self.touch()
        self.log.append("exit")

    def __str__(self) -> str:
        self.touch()
        return "a store"


class Table(Mapping[str, int]):
    """A mapping of the standard kind, whose views refer to it."""

    def __init__(self) -> None:
        self.released = 0
        self.data = {"a": 1}

    def close(self) -> None:
        self.released += 1

    def __getitem__(self, key: str) -> int:
        if self.released:
            raise Closed("table")
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        if self.released:
            raise Closed("table")
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def keys(self) -> KeysView[str]:
        return super().keys()

    def items(self) -> ItemsView[str, int]:
        return super().items()


class Passing:
    """Passes what it does not have on to another object, as `tempfile` does."""

    def __init__(self) -> None:
        self.store = Store()
        self.callback = len

    def close(self) -> None:
        self.store.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Compared:
    """Compares by value, and has a hash of its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        self.number = -1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compared) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __lt__(self, other: Compared) -> bool:
        return self.number < other.number


class Unhashable(Compared):
    """As Pillow's images."""

    __hash__ = None  # type: ignore[assignment]
