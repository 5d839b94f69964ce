"""GStreamer under watch, for any program on gst-python: ``lifecycle run --gst``.

**The idea.** The functions of `Gst` in which programs go wrong are exchanged for ones that note what is done,
call the original with the same arguments, and return or raise what that did. Nothing is made safe
(`make_safe` is another switch). ``info.data`` is a memoryview over the same memory whose ``obj`` takes a weak
reference, so that it is known what outlives its unmapping. Nothing is imported that the program does not
import: each function is exchanged when the program has its module, and, since gst-python puts its functions
in place at ``Gst.init``, behind that.

A *mistake* is certain, and told before the call where that may not come back. A *risk* may be harmless.
docs/run.md has the table: what is reported, what is a risk, and what is missed.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import weakref
from types import CodeType, FrameType, ModuleType
from typing import Any

from lifecycle.watch import mappings, sites
from lifecycle.watch.imports import when_imported
from lifecycle.watch.journal import Seen, frame_here, journal, some
from lifecycle.watch.patches import Around, hidden, patch, quiet

NULL, READY, PAUSED = 1, 2, 3
"""Of ``Gst.State``."""
STATES = ("VOID_PENDING", "NULL", "READY", "PAUSED", "PLAYING")
REMOVE, PASS = 2, 3
"""Of ``Gst.PadProbeReturn``."""
KEPT = 32
"""Samples of one line alive at a time that are a risk."""
LONGEST_WAY = 64
"""Elements that are asked for a tee."""
LEAST_POOL = 2
"""So many of a bounded pool's buffers are in the pipeline itself."""

_REFERENCES, _PARENT, _STATE = 8, 40, 128
"""Where a GObject has its count, a GstObject its parent, and a GstElement its state: public structures."""


class Owed:
    """An element that the program has to set to NULL."""

    __slots__ = ("name", "pointer", "ref", "seen", "state")
    name: str
    pointer: int
    seen: Seen
    state: int

    def __init__(self, name: str, pointer: int, seen: Seen, state: int) -> None:
        self.name, self.pointer, self.seen, self.state = name, pointer, seen, state
        self.ref: Any = None

    def __str__(self) -> str:
        return f"{self.seen.name} {self.name!r}, {STATES[self.state]} since {sites.text(self.seen.site)}"


class Line:
    """The samples that one line has pulled."""

    __slots__ = ("live", "most", "seen", "told", "top")
    seen: Seen
    top: int

    def __init__(self, seen: Seen, top: int) -> None:
        self.seen, self.top = seen, top
        self.live: dict[int, Any] = {}
        self.most: int = 0
        self.told: set[str] = set()


class Blocking:
    """A blocking probe."""

    __slots__ = ("called", "done", "number", "pad", "seen")
    seen: Seen
    pad: str
    called: bool
    done: bool

    def __init__(self, seen: Seen, pad: str) -> None:
        self.seen, self.pad = seen, pad
        self.number: Any = None
        self.called = self.done = False


_owed: dict[int, Owed] = {}
_lines: dict[sites.Site, Line] = {}
_blocking: list[Blocking] = []
_codes: set[CodeType] = set()
"""Of callbacks that streaming threads call."""
_probes: set[CodeType] = set()
_said: set[object] = set()
_pulled_from: set[int] = set()
"""Appsinks, by address."""
_make_safe = _playing = _forked = False
_package = ""
_modules: dict[str, Any] = {}
_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def begin(make_safe: bool = False) -> None:
    """Watch GStreamer from when the program has it."""
    global _make_safe
    _make_safe = make_safe
    mappings.make_safe = make_safe
    how = {"Gst": "not its module was never imported"}
    journal.watched["gi.repository.Gst"] = lambda: how["Gst"]

    def loaded(module: ModuleType) -> None:
        global _package
        _package = mappings.package = sites.package_of(module)
        how["Gst"] = "calls"
        _modules["Gst"] = module
        for name in ("init", "init_check"):
            patch(module, name, _init)
        info = getattr(module, "MapInfo", None)
        if info is not None and not hasattr(info, "memory"):
            # gst-python's, which is written in Python.
            info.memory = mappings.Memory()
        try:
            ready = bool(module.is_initialized())
        except Exception:
            # gst-python's answer before `Gst.init`.
            ready = False
        if ready:
            _exchange(module, CALLS)

    when_imported("gi.repository.Gst", loaded)
    when_imported("gi.repository.GstApp", lambda module: _exchange(module, SAMPLES))
    journal.at_end.append(_end)
    sys.addaudithook(_audit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _init(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    try:
        _exchange(_modules["Gst"], CALLS)
    except Exception as error:
        journal.say(f"gi.repository.Gst is not watched: {type(error).__name__}: {error}")
    return result


def _exchange(module: Any, calls: dict[str, Around]) -> None:
    """Exchange what `calls` names, as ``"Buffer.map Buffer.unmap"``, for what has the function beside it
    around the call."""
    for names, around in calls.items():
        for call in names.split():
            owner, _, name = call.partition(".")
            patch(getattr(module, owner), name, around)


# -- what is told --------------------------------------------------------------------------------------------


def _frame() -> FrameType | None:
    return sites.user(frame_here(1), _package)


def _seen(name: str, frame: FrameType | None = None) -> Seen:
    return mappings.seen_at(name, frame or _frame())


def _once(key: object) -> bool:
    """Return True the first time. A loop that does one thing wrong is told once."""
    if key in _said:
        return False
    _said.add(key)
    return True


def _mistake(name: str, what: str) -> None:
    """Tell of something certain at the program's line."""
    frame = _frame()
    where = sites.site(frame)
    if _once((where, what)):
        journal.mistake(_seen(name, frame), f"{what}: {name} at {sites.text(where)}")


def _risk(name: str, what: str) -> None:
    frame = _frame()
    where = sites.site(frame)
    if _once((where, what)):
        journal.risk(_seen(name, frame), f"{what}: {name} at {sites.text(where)}")


def _named(thing: Any) -> str:
    """``tee 't'`` of an element, ``sink of tee 't'`` of a pad."""
    gst = _modules["Gst"]
    try:
        if isinstance(thing, gst.Pad):
            parent = thing.get_parent()
            return f"pad {thing.get_name()!r}" + (f" of {_named(parent)}" if parent is not None else "")
        factory = thing.get_factory() if isinstance(thing, gst.Element) else None
        kind = factory.get_name() if factory is not None else type(thing).__name__
        return f"{kind} {thing.get_name()!r}"
    except Exception:
        return type(thing).__name__


def _pointer(thing: Any) -> int:
    return int(_capsule(thing.__gpointer__, None) or 0)


def _foreign() -> bool:
    """Return True on a thread that Python has not started."""
    thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
    return thread is None or isinstance(thread, threading._DummyThread)


def _outermost(frame: FrameType | None) -> CodeType | None:
    """The code that was called first on this thread."""
    code = None
    while frame is not None:
        if not sites.ours(frame.f_code.co_filename):
            code = frame.f_code
        frame = frame.f_back
    return code


def _code_of(callback: Any) -> CodeType | None:
    while isinstance(callback, functools.partial):
        callback = callback.func
    for one in (callback, getattr(callback, "__call__", None)):  # noqa: B004 - which function it is
        code = getattr(getattr(one, "__func__", one), "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


# -- states --------------------------------------------------------------------------------------------------


def _set_state(original: Any, args: Any, more: Any) -> Any:
    _about_to_set(*args, **more)
    result = original(*args, **more)
    _was_set(result, *args, **more)
    return result


@quiet
def _about_to_set(element: Any, state: Any) -> None:
    target = int(state)
    if _forked and _playing:
        _mistake(_named(element), "GStreamer used in a forked child, whose parent's threads are not there")
    if target > READY:
        return
    parent = element.get_parent()
    if parent is None:
        if _foreign():
            certain = _outermost(frame_here(1)) in _codes
            told = _mistake if certain else _risk
            told(
                _named(element), f"set_state({STATES[target]}) on a streaming thread, which waits for itself"
            )
        elif target == NULL:
            _undrained(element)
        return
    if target == NULL and int(parent.current_state) >= PAUSED:
        tee = _tee_before(element)
        if tee is not None and int(tee.current_state) >= PAUSED:
            _mistake(
                _named(element),
                f"set_state(NULL) of what is still linked to {_named(tee)}: everything behind it stands",
            )


def _tee_before(element: Any) -> Any:
    """The tee that an element gets its data from, None where there is none, or the way is blocked."""
    waiting = [element]
    for element in waiting:
        for pad in element.sinkpads:
            peer = pad.get_peer()
            before = None if peer is None or peer.is_blocked() else peer.get_parent_element()
            if before is None:
                continue
            factory = before.get_factory()
            if factory is not None and factory.get_name() == "tee":
                return before
            if len(waiting) < LONGEST_WAY:
                waiting.append(before)
    return None


def _undrained(element: Any) -> None:
    """Tell of the appsinks that are full, and that nothing was ever pulled from."""
    gst = _modules["Gst"]
    if not isinstance(element, gst.Bin):
        return
    found = element.iterate_all_by_element_factory_name("appsink")
    result, sink = found.next()
    while result == gst.IteratorResult.OK:
        most = sink.get_property("max-buffers")
        if most and _pointer(sink) not in _pulled_from and not sink.get_property("drop"):
            known, waiting = sink.get_property("stats").get_uint64("rendered")
            if known and waiting >= most:
                _risk(_named(sink), f"full (max-buffers={most}), and nothing was ever pulled from it")
        result, sink = found.next()


@quiet
def _was_set(result: Any, element: Any, state: Any) -> None:
    global _playing
    target = int(state)
    pointer = _pointer(element)
    if target <= NULL:
        if int(result):
            owed = _owed.pop(pointer, None)
            if owed is not None and journal.recorded is not None:
                journal.recorded.closed(owed.seen, _frame())
            _kept_beyond(pointer)
    elif int(result) and element.get_parent() is None:
        _playing = True
        owed = _owed.get(pointer)
        if owed is None or owed.ref() is not element:
            _owe(element, pointer, target)
        else:
            owed.state = target


def _owe(element: Any, pointer: int, state: int) -> None:
    owed = Owed(element.get_name(), pointer, _seen(type(element).__name__), state)

    def gone(_: object) -> None:
        if _owed.get(pointer) is owed:
            del _owed[pointer]
            _dropped(owed)

    owed.ref = weakref.ref(element, gone)
    _owed[pointer] = owed


def _dropped(owed: Owed) -> None:
    """The wrapper goes; the element is there still, held by it."""
    count = ctypes.c_uint.from_address(owed.pointer + _REFERENCES).value
    parent = ctypes.c_void_p.from_address(owed.pointer + _PARENT).value
    state = ctypes.c_uint.from_address(owed.pointer + _STATE).value
    if parent or state <= NULL or journal.ended:
        return
    if count <= 1:
        journal.mistake(owed.seen, f"dropped without set_state(NULL): {owed}")
    else:
        # Messages on its bus hold it as well: it plays on with nobody to stop it, or somebody asks for it.
        journal.mistake(owed.seen, f"dropped without set_state(NULL), and held by others: {owed}")


def _removed(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    _was_removed(*args)
    return result


@quiet
def _was_removed(_: Any, element: Any) -> None:
    state = int(element.current_state)
    if state > NULL and element.get_parent() is None:
        _owe(element, _pointer(element), state)


# -- pads ----------------------------------------------------------------------------------------------------


def _release_pad(original: Any, args: Any, more: Any) -> Any:
    _about_to_release(*args)
    return original(*args, **more)


@quiet
def _about_to_release(element: Any, pad: Any) -> None:
    if pad.get_parent() is not element:
        _mistake(_named(element), "release_request_pad of a pad that it does not have (any more)")


def _unlink(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    if result:
        _was_unlinked(args[0])
    return result


@quiet
def _was_unlinked(pad: Any) -> None:
    tee = pad.get_parent_element()
    factory = None if tee is None else tee.get_factory()
    if (
        factory is not None
        and factory.get_name() == "tee"
        and int(tee.current_state) > PAUSED
        and not tee.get_property("allow-not-linked")
        and not any(one.is_linked() or one.is_blocked() for one in tee.srcpads)
    ):
        _mistake(_named(tee), "the last branch unlinked while it plays, without allow-not-linked")


def _add_probe(original: Any, args: Any, more: Any) -> Any:
    blocking, probe = _about_to_probe(*args) or (None, None)
    result = original(*(args if probe is None else (*args[:2], probe, *args[3:])), **more)
    if blocking is not None:
        blocking.number = result
    return result


@quiet
def _about_to_probe(pad: Any, mask: Any, callback: Any, *_: Any) -> tuple[Blocking | None, Any]:
    code = _code_of(callback)
    if code is not None:
        _codes.add(code)
        _probes.add(code)
    blocking = None
    if int(mask) & int(_modules["Gst"].PadProbeType.BLOCK):
        blocking = Blocking(_seen("probe"), _named(pad))
        _blocking.append(blocking)
    return blocking, _probe(callback, blocking, sites.site(_frame()))


def _probe(callback: Any, blocking: Blocking | None, where: sites.Site) -> Any:
    @quiet
    def returned(result: Any) -> None:
        if result is None and _once((where, "None")):
            name = getattr(callback, "__name__", "a callable")
            told = f"a probe returned None, which counts as DROP: {name}, added at {sites.text(where)}"
            journal.mistake(mappings.seen_at("probe", None), told)
        if blocking is not None:
            blocking.called = True
            blocking.done = blocking.done or result is None or int(result) in (REMOVE, PASS)

    def around(original: Any, args: Any, more: Any) -> Any:
        result = original(*args, **more)
        returned(result)
        return result

    return hidden(around, callback)


def _remove_probe(original: Any, args: Any, more: Any) -> Any:
    for one in _blocking:
        if one.number == args[-1]:
            one.done = True
    return original(*args, **more)


# -- references ----------------------------------------------------------------------------------------------


def _give_back(original: Any, args: Any, more: Any) -> Any:
    _mistake("Gst.BufferPool", "release_buffer by hand: the last reference gives a buffer back")
    return original(*args, **more)


def _unref(original: Any, args: Any, more: Any) -> Any:
    _mistake(_named(args[0]) if args else "Gst.Object", "unref by hand of what Python holds")
    return original(*args, **more)


def _wrapped(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    _risk(type(result).__name__, "memory that wraps Python bytes, which nothing keeps alive")
    return result


# -- samples -------------------------------------------------------------------------------------------------

PULLS = frozenset({"pull-sample", "try-pull-sample", "pull-preroll", "try-pull-preroll"})


def _emit(original: Any, args: Any, more: Any) -> Any:
    signal = args[1] if len(args) > 1 else None
    if signal in PULLS:
        return _pull(original, args, more)
    if signal == "push-buffer":
        return _push(original, args, more)
    if signal == "get-live-objects":
        _mistake(
            _named(args[0]), "get-live-objects of the leaks tracer takes references that are not its own"
        )
    return original(*args, **more)


def _pull(original: Any, args: Any, more: Any) -> Any:
    _pulls(args[0])
    sample = original(*args, **more)
    _pulled(args[0], sample)
    return sample


@quiet
def _pulls(sink: Any) -> None:
    _pulled_from.add(_pointer(sink))


@quiet
def _pulled(sink: Any, sample: Any) -> None:
    frame = _frame()
    where = sites.site(frame)
    line = _lines.get(where)
    if sample is None:
        starves = line is not None and line.live and "bounded" in line.told
        if line is not None and starves and not sink.get_property("eos") and _once(line):
            kept = some(len(line.live), "sample")
            journal.mistake(
                line.seen,
                f"{kept} kept from a bounded pool, and none comes any more: pulled at {sites.text(where)}",
            )
        return
    if line is None:
        line = _lines.setdefault(where, Line(_seen("Gst.Sample", frame), _top(sink)))
    live = line.live

    def gone(ref: object) -> None:
        live.pop(id(ref), None)

    ref = weakref.ref(sample, gone)
    live[id(ref)] = ref
    count = len(live)
    if count <= line.most or count > KEPT:
        return
    line.most = count
    if count == KEPT and "many" not in line.told:
        line.told.add("many")
        journal.risk(line.seen, f"{count} samples are alive at a time: pulled at {sites.text(where)}")
    if count > 1 and "bounded" not in line.told:
        most = _most_of(sample.get_buffer())
        if most and count >= most - LEAST_POOL:
            line.told.add("bounded")
            journal.risk(
                line.seen,
                f"{count} samples are alive at a time, of a pool of {most}: pulled at {sites.text(where)}",
            )


def _most_of(buffer: Any) -> int:
    """How many buffers its pool has at most, 0 for no bound."""
    pool = buffer.pool
    if pool is None:
        return 0
    return int(_modules["Gst"].BufferPool.config_get_params(pool.get_config())[4])


def _top(element: Any) -> int:
    parent = element.get_parent()
    while parent is not None:
        element, parent = parent, parent.get_parent()
    return _pointer(element)


def _kept_beyond(pointer: int) -> None:
    for where, line in list(_lines.items()):
        if line.top == pointer and line.live and "beyond" not in line.told:
            line.told.add("beyond")
            count = len(line.live)
            journal.risk(
                line.seen, f"{some(count, 'sample')} alive behind NULL: pulled at {sites.text(where)}"
            )


def _push(original: Any, args: Any, more: Any) -> Any:
    _about_to_push(args[-1])
    return original(*args, **more)


@quiet
def _about_to_push(buffer: Any) -> None:
    told = mappings.writable(buffer)
    if told is not None:
        certain, where = told
        text = f"pushed while it can be written to, mapped at {sites.text(where)}"
        (_mistake if certain else _risk)(type(buffer).__name__, text)


# -- callbacks -----------------------------------------------------------------------------------------------


def _connect(original: Any, args: Any, more: Any) -> Any:
    for one in args:
        code = _code_of(one) if callable(one) else None
        if code is not None:
            _codes.add(code)
    return original(*args, **more)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """PyGObject gives what a callback raises to `sys.excepthook`, which is told here."""
    if event == "sys.excepthook":
        _left_a_callback(*args)


@quiet
def _left_a_callback(_: Any, kind: Any, __: Any, trace: Any) -> None:
    if trace is None or not _modules or not _foreign():
        return
    while trace is not None and sites.ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if trace is None:
        return
    code = trace.tb_frame.f_code
    where = (code.co_filename, trace.tb_lineno)
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not sites.foreign(name, _package):
            where = (name, trace.tb_lineno)
        trace = trace.tb_next
    if code in _codes and _once((where, "raised")):
        what = "which counts as DROP" if code in _probes else "which no code on its thread catches"
        told = f"{kind.__name__} left a callback, {what}: {code.co_name} at {sites.text(where)}"
        journal.mistake(mappings.seen_at("callback", None), told)


# -- the end -------------------------------------------------------------------------------------------------


def _in_child() -> None:
    global _forked
    _forked = True
    _owed.clear()
    _lines.clear()
    _blocking.clear()
    mappings.forget()


def _end() -> None:
    mappings.end()
    for owed in list(_owed.values()):
        element = owed.ref()
        if element is not None and int(element.current_state) > NULL:
            journal.mistake(owed.seen, f"never set to NULL before the end: {owed}")
            if _make_safe:
                element.set_state(_modules["Gst"].State.NULL)
    for one in _blocking:
        if one.called and not one.done:
            journal.risk(one.seen, f"blocked and never unblocked: {one.pad}, at {sites.text(one.seen.site)}")


# -- what is exchanged ---------------------------------------------------------------------------------------

CALLS: dict[str, Around] = {
    "Buffer.map Buffer.map_range Memory.map": mappings.map_,
    "Buffer.unmap Memory.unmap": mappings.unmap,
    "Buffer.new_wrapped_full Memory.new_wrapped": _wrapped,
    "Element.set_state": _set_state,
    "Element.release_request_pad": _release_pad,
    "Bin.remove": _removed,
    "Pad.add_probe": _add_probe,
    "Pad.remove_probe": _remove_probe,
    "Pad.unlink": _unlink,
    "BufferPool.release_buffer": _give_back,
    "Object.unref": _unref,
    "Object.emit": _emit,
    "Object.connect Bus.set_sync_handler": _connect,
}
"""Of Gst."""
SAMPLES: dict[str, Around] = {
    "AppSink.pull_sample AppSink.try_pull_sample AppSink.pull_preroll AppSink.try_pull_preroll": _pull,
    "AppSrc.push_buffer AppSrc.push_sample": _push,
}
"""Of GstApp."""
