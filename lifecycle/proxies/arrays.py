"""Arrays behind proxies: what NumPy asks of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from lifecycle._core.calls import LOOKED_INTO, general
from lifecycle._core.proxied import is_light, is_proxy
from lifecycle.proxies.buffers import guarded_array


def array_function(self: Any, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """A function of NumPy, of the objects in place of their proxies. The object would not answer for it: it
    knows the types of its own library alone."""
    try:
        return general(self, _call, (function, *map(_plain, args)), {k: _plain(v) for k, v in kwargs.items()})
    finally:
        args = kwargs = None


def _plain(value: Any, found: bool = True) -> Any:
    """An argument without the proxies that the call itself will not find (`found` says of this one): arrays
    that hold what is theirs are in their place."""
    if type(value) in (list, tuple):
        found = found and len(value) <= LOOKED_INTO
        return type(value)([one if found and is_proxy(one) else _plain(one, False) for one in value])
    return array(value) if is_proxy(value) and not found else value


def _call(_: object, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    finally:
        args = ()
        kwargs = {}


def array(self: Any, dtype: Any = None, copy: Any = None) -> Any:
    """An array of the object's memory that keeps the object from being released."""
    lease = pin = raw = None
    numpy = sys.modules["numpy"]
    try:
        lease = self._lifecycle_handle.lease()
        raw = lease.__enter__()
        pin = lease._pin
        raw = numpy.asarray(self._lifecycle_raw if is_light(self) else raw)
        made = guarded_array(pin, raw)
        if dtype is not None:
            made = made.astype(dtype, copy=False)
        return made.copy() if copy else made
    finally:
        pin = raw = None
        if lease is not None:
            lease.__exit__(None, None, None)
