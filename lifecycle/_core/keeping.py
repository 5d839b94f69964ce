"""What may be kept how often: objects of which there is one, and callbacks that keep nothing alive.

**One of each.** A copy of what owns something would give it back a second time: a copied guard runs its
action again, a copied fence gives its slot to two. `Uncopied` refuses `copy.copy`, `copy.deepcopy` and
`pickle`, and with them everything that stands on those (`dataclasses.asdict`, a deep copy of what refers to
it). All three ask ``__reduce_ex__``.

**Weak callbacks.** What is called back by something that lives longer (a manager, a bus, a table of the
process) must not keep its owner alive: nobody could drop that then, and a forgotten one would live for ever,
unreported. `weakly` makes such a callback of a bound method.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn


class Uncopied:
    """Base of what owns something: refuses to be copied and pickled, with the remedy."""

    __slots__ = ()

    _remedy: ClassVar[str] = "pass the object itself, or make another"
    """What to do instead, for the message."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{_shown(self)} cannot be copied or pickled: it owns something, which the copy would end a "
            f"second time; {self._remedy}"
        )


class ProxyType(type):
    """The class of every class of proxies (`proxied.py`). ``type(type(x)) is ProxyType`` is asked instead of
    `isinstance`, which a proxy answers for the object."""


def _shown(one: object) -> str:
    try:
        return repr(one)
    except Exception:  # it was refused when it was made, and is half filled in
        return f"a {type(one).__name__}"


# A prototype of our own: those of `ctypes.pythonapi` are shared with other code that sets their types.
_add_reference = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))


def keep_for_ever(obj: object) -> None:
    """Have `obj` never be destroyed, not at the end of the process either: one reference to it is never given
    back. For a forked child, where the destructors of wrappers that it has inherited would end what is the
    parent's. Callable on any thread."""
    _add_reference(obj)


def weakly(method: Callable[..., Any], otherwise: Any = None) -> Callable[..., Any]:
    """A function that calls the bound `method` as long as its object lives, returns `otherwise` after that,
    and keeps nothing alive. Callable on any thread."""
    weak = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        living = weak()
        try:
            return otherwise if living is None else living(*arguments)
        finally:
            living = None  # a kept traceback must keep nothing alive
            arguments = ()

    return call
