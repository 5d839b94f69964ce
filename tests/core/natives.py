"""Stand-ins for native objects, that know what was done to them."""

from __future__ import annotations

import threading


class Native:
    """Records every release and on which thread, and complains where a real native object would have crashed."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.threads: list[int] = []
        self.errors: list[str] = []

    def use(self) -> str:
        """What a user does with it."""
        if self.threads:
            self.errors.append(f"{self.label} used after its release")
        return self.label

    def free(self) -> None:
        """Its release function."""
        if self.threads:
            self.errors.append(f"{self.label} released twice")
        self.threads.append(threading.get_ident())

    @property
    def released(self) -> int:
        """How often it was released."""
        return len(self.threads)

    def __repr__(self) -> str:
        return f"<Native {self.label!r}, released {self.released} times>"


class Fence:
    """A fence that signals when told to."""

    def __init__(self) -> None:
        self.done = False
        self.asked = 0

    def signalled(self) -> bool:
        """What the library asks."""
        self.asked += 1
        return self.done


class Panic(BaseException):
    """What a Rust extension raises: not an `Exception`."""
