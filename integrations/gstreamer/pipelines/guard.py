"""What all guards are: one registered object of the manager, closed once, on any thread.

A guard owns an action on a native object of GStreamer – a state to leave, a probe to remove, a pad to give
back – and the object with it. The action is the *release* of a core registered with the manager: it runs
exactly once, at its place and with a deadline, when the guard is closed, when it was dropped (which is
reported as a leak), and when the manager or the interpreter ends. So a guard is in the statistics, in leak
reports and in the exit report like any other object.

A guard holds its core through its handle alone. What GStreamer itself keeps (signal handlers, probes) refers
to small objects that know neither guard nor core: so a guard goes at once with its last reference, whatever
its pipeline does.
"""

from __future__ import annotations

import difflib
import enum
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from gi.repository import GObject

from lifecycle import BACKGROUND, Handle, LifecycleError, ObjectState, SafetyManager
from lifecycle.integrations.gstreamer._native import Gst, deserialize
from lifecycle.integrations.gstreamer.errors import DescriptionError, GuardError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.threads import refuse_forked
from lifecycle.lowlevel import Uncopied

__all__ = [
    "Core",
    "Guard",
    "add_to",
    "check_manager",
    "check_name",
    "check_seconds",
    "children_of",
    "elements_of",
    "end_opened",
    "make_element",
    "name_of",
    "or_nothing",
    "pads_of",
    "path_of",
    "set_properties",
    "state_name",
]

F = TypeVar("F", bound=Callable[..., None])
S = TypeVar("S", bound="Guard[Any]")


def or_nothing(init: F) -> F:
    """Decorator of a constructor. Where it fails or is interrupted ``self._abandon()`` ends what it has
    begun: nobody else could, and a traceback that is kept keeps `self`."""

    @functools.wraps(init)
    def make(self: Any, *arguments: Any, **options: Any) -> None:
        try:
            init(self, *arguments, **options)
        except BaseException:
            self._abandon()
            raise

    return make  # type: ignore[return-value]


def end_opened(component: Any) -> None:
    """As ``_abandon``: what a component has opened ends, and the manager is told."""
    mine = vars(component)
    if "_opened" in mine:
        component._opened.end()
    if "_over" in mine:
        component._over()


class Core:
    """What a guard registers: `release` is its action."""

    def release(self) -> None:
        """Runs once, at the guard's place."""
        raise NotImplementedError


C = TypeVar("C", bound=Core)


def name_of(obj: Any) -> str:
    """The name of a `Gst.Object`, ``element.pad`` for a pad, for messages."""
    if isinstance(obj, Gst.Pad):
        parent = obj.get_parent()
        return f"{parent.get_name() if parent is not None else '?'}.{obj.get_name()}"
    return str(obj.get_name())


def set_properties(element: Any, properties: Mapping[str, Any]) -> None:
    """Set properties of an element; `_` stands for `-`, a text for what ``gst-launch-1.0`` would make of it.
    Raises `GuardError` naming the element, and sets none, where it does not have one of them or does not take
    its value."""
    wanted = {name.replace("_", "-"): value for name, value in properties.items()}
    specs = {name: element.find_property(name) for name in wanted}
    what = f"element {path_of(element)!r}"
    for name, spec in specs.items():
        if spec is None:
            known = sorted(known.name for known in element.list_properties())
            near = difflib.get_close_matches(name, known, 3)
            said = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
            raise GuardError(f"{what} ({type_of(element)}) has no property {name!r}; {said}")
        if not spec.flags & GObject.ParamFlags.WRITABLE:
            raise GuardError(f"{what}: its property {name!r} can only be read")
        if spec.flags & GObject.ParamFlags.CONSTRUCT_ONLY:
            raise GuardError(
                f"{what}: its property {name!r} can only be given as the element is made; put "
                f"«{type_of(element)} {name}=…» into the description"
            )
    fitting = {name: _fitting(what, element, specs[name], value) for name, value in wanted.items()}
    for name, value in fitting.items():
        if isinstance(value, str) and specs[name].value_type != GObject.TYPE_STRING:
            Gst.util_set_object_arg(element, name, value)
            continue
        try:
            element.set_property(name, value)
        except (TypeError, ValueError, OverflowError) as error:
            raise _misfit(what, specs[name], value) from error


def type_of(element: Any) -> str:
    """What kind of element it is, by its factory."""
    factory = element.get_factory()
    return "?" if factory is None else str(factory.get_name())


def _fitting(what: str, element: Any, spec: Any, value: Any) -> Any:
    """`value` as the property takes it. Raises `GuardError` for what GStreamer would leave out, or cut to
    fit."""
    values: list[Any] = []
    if spec.value_type.is_a(GObject.TYPE_ENUM) and spec.flags & GObject.ParamFlags.READABLE:
        # By what it has now: what a specification tells of its values differs by version.
        kind: Any = type(element.get_property(spec.name))
        # PyGObject's enumerations are Python's own from 3.52 on.
        values = list(kind) if isinstance(kind, enum.EnumMeta) else list(kind.__enum_values__.values())
    if values:
        for one in values:
            if value in (one, int(one)) or value == one.value_nick:
                return one
        nicks = ", ".join(one.value_nick for one in values)
        raise GuardError(f"{what}: its property {spec.name!r} takes one of {nicks}, not {value!r}")
    least, most = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    try:
        if spec.value_type == GObject.TYPE_BOOLEAN and isinstance(value, str):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        if least is not None and most is not None:
            number = float(value) if isinstance(least, float) else operator.index(_number(value))
            if not least <= number <= most:
                raise ValueError(number)
            return number
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit(what, spec, value) from error
    if value is not None and not _takes(spec.value_type, value):
        raise _misfit(what, spec, value)
    return value


def _takes(kind: Any, value: Any) -> bool:
    """Return True if a property of type `kind`, which is no number, takes `value`. What cannot be told here
    PyGObject tells as it is set."""
    if kind == GObject.TYPE_STRING:
        return isinstance(value, str)
    if isinstance(value, str):
        trial = GObject.Value()
        trial.init(kind)
        return bool(deserialize(hash(trial), value.encode(errors="replace")))
    if kind.is_a(GObject.TYPE_OBJECT):
        return isinstance(value, GObject.Object) and value.__gtype__.is_a(kind)
    return not kind.is_a(GObject.TYPE_BOXED) or not isinstance(value, (int, float, bytes))


def _number(value: Any) -> Any:
    return int(value, 0) if isinstance(value, str) else value


def _misfit(what: str, spec: Any, value: Any) -> GuardError:
    least, most = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    limits = "" if least is None or most is None else f" from {least} to {most}"
    return GuardError(
        f"{what}: its property {spec.name!r} takes a {spec.value_type.name}{limits}, not {value!r}"
    )


def path_of(obj: Any) -> str:
    """Where a `Gst.Object` sits: ``pipeline0/branch1/queue``."""
    names = []
    while obj is not None:
        names.append(obj.get_name())
        obj = obj.get_parent()
    return "/".join(reversed(names))


def state_name(element: Any) -> str:
    """The state of an element as it is now, for messages: ``PLAYING``."""
    return str(element.get_state(0)[1].value_nick).upper()


def elements_of(parent: Any) -> list[Any]:
    """Every element in the bin `parent`, those of the bins in it too, sinks first."""
    return _all_of(parent.iterate_recurse)


def children_of(parent: Any) -> list[Any]:
    """Every element in the bin `parent` itself."""
    return _all_of(parent.iterate_elements)


def pads_of(element: Any, direction: Any) -> list[Any]:
    """Its pads of that direction."""
    return [pad for pad in _all_of(element.iterate_pads) if pad.get_direction() == direction]


def _all_of(iterate: Callable[[], Any]) -> list[Any]:
    """What an iterator of GStreamer gives, begun anew where something came or went meanwhile."""
    while True:
        iterator = iterate()
        found = []
        while True:
            result, item = iterator.next()
            if result == Gst.IteratorResult.OK:
                found.append(item)
            elif result == Gst.IteratorResult.RESYNC:
                break
            else:
                return found


def make_element(factory: str, name: str | None = None) -> Any:
    """A new element. Raises `DescriptionError` where there is no such factory. (gst-python's own errors
    differ by version.)"""
    found = Gst.ElementFactory.find(factory)
    if found is None:
        raise DescriptionError(
            f"there is no element {factory!r} here; gst-inspect-1.0 lists what is installed (on Debian the "
            "packages are gstreamer1.0-plugins-base, -good, -bad, -ugly)"
        )
    return found.create(name)


def add_to(parent: Any, element: Any) -> bool:
    """Add an element to a bin; whether it took it. (gst-python's override answers with an exception
    instead.)"""
    try:
        parent.add(element)
    except Exception:
        return False
    return bool(element.get_parent() == parent)


class Guard(Uncopied, Generic[C]):
    """Base of the guards. A context manager; every method may be called on any thread and at any moment."""

    _remedy = "pass the guard itself: one guard ends what it guards, once"

    type_name: ClassVar[str] = "gst.Guard"
    _handle: Handle[C]

    def _register(
        self,
        manager: SafetyManager,
        core: C,
        name: str,
        native: Any,
        release_on: Any = BACKGROUND,
        parent: Any = None,
    ) -> None:
        """Make the core the manager's. Refused (closed manager, another guard of the same native), its caller
        still has it."""
        self.manager = manager
        self.name = name
        self._handle = manager.register(
            core,
            self.type_name,
            name=name,
            native=native,
            release=type(core).release,
            release_on=release_on,
            parent=parent,
        )

    def _abandon(self) -> None:
        """Its making has failed: what is registered ends."""
        handle = vars(self).get("_handle")
        if handle is not None:
            handle.close()

    @property
    def handle(self) -> Handle[C]:
        """The registered object: its id, state, and what is known of it in reports."""
        return self._handle

    @property
    def closed(self) -> bool:
        """True if the guard was closed, or its object was shut otherwise."""
        return not self._handle.valid

    def close(self) -> bool:
        """Do what the guard is for, once; True when that is done.

        On a streaming thread, inside a garbage collection and under `lifecycle.never_wait` it is handed over
        to a worker, and the answer is False. Closing again gives the answer as it is then. Raises
        `StateTimeout` when the manager's ``finalizer_timeout`` passed first, `GuardError` when GStreamer
        refused.
        """
        done = self._handle.close()
        if not done:
            state = self._handle.state
            if state is ObjectState.STUCK:
                self._stuck()
            if state is ObjectState.FAILED:
                raise GuardError(f"{self!r} could not be closed: {self._handle!r}")
        return done

    def _stuck(self) -> NoReturn:
        raise StateTimeout(
            f"{self!r}: closing it was not done within {self.manager.config.finalizer_timeout:g} s; it is "
            "quarantined and its worker was replaced"
        )

    def __enter__(self: S) -> S:
        if self.closed:
            self._handle.lease()  # raises, saying since when and why
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {'open' if self._handle.valid else self._handle.state}>"
        )


def check_manager(manager: Any, what: str) -> None:
    """Refuse what is no manager, a forked child, and a process in which GStreamer is not initialised."""
    if not isinstance(manager, SafetyManager):
        raise GuardError(f"{what}: the first argument is the SafetyManager, not {manager!r}")
    refuse_forked(what)


def check_name(name: Any, what: str, error: type[LifecycleError] = GuardError) -> None:
    """Refuse what no element can be called: GStreamer's names are UTF-8, and end at a null character."""
    if not isinstance(name, str) or "\0" in name or name != name.encode("utf-8", "replace").decode("utf-8"):
        raise error(f"{what} takes a text that is UTF-8 and has no null character, not {name!r}")


def check_seconds(value: Any, what: str, error: type[LifecycleError] = GuardError) -> None:
    """Refuse what is not a number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise error(f"{what} takes seconds, 0 or more, not {value!r}")
