"""What a proxy may give out, as its user says it: which results are children, which are memory, which methods
are an end.

A tree of `Node`: one for the root, one for each rule. A node knows the rules of the nodes above it, so that a
group of a group is a child as well.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import methodcaller
from types import FunctionType
from typing import Any, Final, Union

import attrs

from lifecycle._core.calls import PLAIN, method_called_by
from lifecycle.errors import RegistrationError, shown
from lifecycle.lowlevel import check_callback
from lifecycle.lowlevel import check_release as check_plain


class View(Enum):
    """The type of `VIEW`."""

    VIEW = "VIEW"

    def __repr__(self) -> str:
        return "VIEW"


VIEW: Final = View.VIEW
"""In ``children=``: what the type or method gives is memory of the object. It comes back as a view or an
array that keeps the object from being released."""


def _ends_of_a_child(names: Any) -> tuple[str, ...]:
    return checked_names(names, "Child(ends=)")


@attrs.frozen(eq=False)
class Child:
    """How a child is guarded, in ``children=``.

    Parameters
    ----------
    release:
        None for a light child, which goes through the door of its parent; a method's name or a callable for
        one that is registered, and released before its parent.
    ends:
        Names of methods after which the child is over. Its release is not called then.
    children:
        Rules for what the child gives out, beside those of its parent.

    Raises `RegistrationError` for a rule that makes no sense.
    """

    release: Callable[[Any], object] | str | None
    """None, a method's name, or a callable; see above."""
    ends: tuple[str, ...] = attrs.field(default=(), converter=_ends_of_a_child)
    """Names of methods after which the child is over."""
    children: Mapping[type | str, ChildRule] = attrs.field(factory=dict)
    """Rules for what the child gives out."""

    def __attrs_post_init__(self) -> None:
        check_release(self.release, "Child(release=)")
        check_children(self.children, "Child(children=)")


ChildRule = Union[Child, View, Callable[[Any], object], str, None]  # noqa: UP007 - `|` does not take a forward reference on 3.10
"""What stands for a type or method name in ``children=``."""


def checked_names(names: Any, what: str) -> tuple[str, ...]:
    """`names` as a tuple. Raises `RegistrationError` for what is no collection of names."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise RegistrationError(f"{what} takes a tuple of method names, not {shown(names)}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not name.isidentifier():
            raise RegistrationError(f"{what} takes names of methods, not {shown(name)}")
    return found


ROOT = "proxy(release=)"
"""The release of what is given to `proxy`, which is looked at once more where its object is there."""


def check_release(release: Any, what: str) -> None:
    """Raise `RegistrationError` unless `release` is None, a name or a plain callable."""
    if release is None or (isinstance(release, str) and release.isidentifier()):
        return
    if isinstance(release, str):
        raise RegistrationError(f"{what} takes the name of a method, not {release!r}")
    check_callback(release, what)
    if what != ROOT:
        check_plain(release)


def check_children(children: Any, what: str) -> None:
    """Raise `RegistrationError` unless `children` maps types and names to rules."""
    if not isinstance(children, Mapping):
        raise RegistrationError(f"{what} maps types and method names to rules, and is not {shown(children)}")
    for key, rule in children.items():
        if not isinstance(key, (type, str)):
            raise RegistrationError(f"{what} has types and method names as keys, not {shown(key)}")
        if key in PLAIN:
            raise RegistrationError(
                f"{what}: {shown(key)} is data and cannot be guarded; name what refers to the native"
            )
        if not isinstance(rule, (Child, View)):
            check_release(rule, f"{what}: the rule of {shown(key)}")


class Node:
    """The rules for the proxies of one place in the tree."""

    __slots__ = (
        "_below",
        "children",
        "classes",
        "closes",
        "ends",
        "exclusive",
        "names",
        "owns",
        "release",
        "results",
        "types",
        "up",
    )

    def __init__(
        self,
        up: Node | None,
        release: Callable[[Any], object] | None,
        closes: str | None,
        ends: tuple[str, ...],
        children: Mapping[type | str, ChildRule],
        exclusive: bool | frozenset[str],
    ) -> None:
        self.up: Node | None = up
        self.release: Callable[[Any], object] | None = release
        self.closes: str | None = closes
        """The method that is the release. None where the type has to be asked (`called_on`)."""
        self.ends: tuple[str, ...] = ends
        self.exclusive: bool | frozenset[str] = exclusive
        self.names: dict[str, ChildRule] = {
            key: rule for key, rule in children.items() if isinstance(key, str)
        }
        own: dict[type, ChildRule] = {key: rule for key, rule in children.items() if isinstance(key, type)}
        self.types: dict[type, ChildRule] = {**(up.types if up is not None else {}), **own}
        self.owns: bool = any(_owning(rule) for rule in (*self.types.values(), *self.names.values()))
        """True if a call may make something that has to be released."""
        self._below: dict[int, tuple[ChildRule, Node]] = {}
        self.classes: dict[type, Any] = {}
        """By type of the object: the class of its proxies."""
        self.results: Any = None
        """By type of a result: what makes of it what is given out. Set by `results`."""

    def below(self, rule: ChildRule) -> Node:
        """The node of a child by `rule`. A rule that came from above has the node that it has there."""
        known = self._below.get(id(rule))
        if known is not None:
            return known[1]
        if self.up is not None and any(rule is one for one in self.up.types.values()):
            return self.up.below(rule)
        if isinstance(rule, Child):
            release, ends, children = rule.release, rule.ends, rule.children
        else:
            assert not isinstance(rule, View)
            release, ends, children = rule, (), {}
        node = Node(self, callable_of(release), name_of(release), ends, children, self.exclusive is True)
        self._below[id(rule)] = (rule, node)
        return node

    def rule_for(self, cls: type) -> tuple[ChildRule] | None:
        """The rule for results of that type, boxed since a rule may be None. None where there is none."""
        for base in cls.__mro__:
            if base in self.types:
                return (self.types[base],)
        return None

    def alone(self, name: object) -> bool:
        """Return True if calls of that method run one at a time."""
        return self.exclusive is True or (self.exclusive is not False and name in self.exclusive)

    def stands_for(self, cls: type) -> bool:
        """Return True if an object of that type may be one that a proxy of this node, or above it, stands
        for."""
        node: Node | None = self
        while node is not None:
            if cls in node.classes:
                return True
            node = node.up
        return False


def _owning(rule: ChildRule) -> bool:
    if isinstance(rule, View):
        return False
    if isinstance(rule, Child):
        return rule.release is not None or any(_owning(one) for one in rule.children.values())
    return rule is not None


def callable_of(release: Callable[[Any], object] | str | None) -> Callable[[Any], object] | None:
    """What is called with the object to release it. A name is called by C: no interrupt comes between."""
    if not isinstance(release, str):
        return release
    return methodcaller(release, None, None, None) if release == "__exit__" else methodcaller(release)


def called_on(release: Callable[[Any], object] | None, kind: type) -> str | None:
    """The method of `kind` that `release` is, or calls at last on what it is given, as
    ``lambda one: one.close()`` does. None where it is none, or calls several, or asks for what it gives."""
    if isinstance(release, methodcaller):
        name = method_called_by(release)
        return name if callable(getattr(kind, name, None)) else None
    if not isinstance(release, FunctionType):
        return None
    name = release.__name__
    if getattr(kind, name, None) is release:
        return name
    steps = list(dis.get_instructions(release))
    first = release.__code__.co_varnames[:1]
    uses = [at for at, one in enumerate(steps) if "LOAD_FAST" in one.opname and _loads(one)[-1:] == first]
    taken = [
        at + 1
        for at in uses
        if steps[at + 1].opname in ("LOAD_ATTR", "LOAD_METHOD")
        and callable(getattr(kind, steps[at + 1].argval, None))
    ]
    if len({steps[at].argval for at in taken}) != 1 or uses[-1] >= _dropped_after(steps, taken[-1]):
        return None
    return str(steps[taken[-1]].argval)


def _loads(one: dis.Instruction) -> tuple[str, ...]:
    """The variables that it loads. From 3.13 on one instruction may load two."""
    return one.argval if isinstance(one.argval, tuple) else (one.argval,)


def _dropped_after(steps: list[dis.Instruction], at: int) -> int:
    """Where the method that is taken at `at` has been called, and what it gives is dropped or returned. 0
    where that is not so."""
    for behind, one in enumerate(steps[at + 1 : -1], at + 2):
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            return 0
        if one.opname.startswith("CALL") and not one.opname.startswith("CALL_INTRINSIC"):
            return behind if steps[behind].opname in ("POP_TOP", "RETURN_VALUE") else 0
    return 0


def name_of(release: Callable[[Any], object] | str | None) -> str | None:
    """The method that is the release: that of its name, or of ``release=Connection.close``."""
    if release is None or isinstance(release, str):
        return release
    name, owner = getattr(release, "__name__", None), getattr(release, "__objclass__", None)
    if isinstance(name, str) and isinstance(owner, type) and vars(owner).get(name) is release:
        return name
    return None
