"""Components: whose figures are other people's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import attrs

from lifecycle import SafetyManager, TypeStats
from lifecycle.integrations.prometheus.families import (
    PER_BRANCH,
    PER_CAPTURE,
    PER_DISTRIBUTOR,
    PER_GROUP,
    PER_PIPELINES,
    PER_POOL,
    PER_TEXTURE_CACHE,
    PER_TIMELINE,
    Row,
)
from lifecycle.integrations.prometheus.merging import merged
from lifecycle.integrations.prometheus.retained import Known, Reading

_ROWS: Mapping[str, tuple[Row, ...]] = {
    "capture": PER_CAPTURE,
    "pool": PER_POOL,
    "distributor": PER_DISTRIBUTOR,
    "branches": PER_PIPELINES,
    "timeline": PER_TIMELINE,
    "texture_cache": PER_TEXTURE_CACHE,
}
"""The kinds of components that families are made of."""
GROUP = "group"
"""The kind of a distributor's groups of receivers."""
BRANCH = "branch"
"""The kind of the branches of a manager's pipelines, by name."""


@attrs.frozen
class Read:
    """What the components of a manager have said."""

    of_components: list[tuple[Any, tuple[Reading, ...]]] = attrs.field(factory=list)
    """Each with its readings."""
    of_memories: list[Any] = attrs.field(factory=list)
    """The figures of its memory managers."""


def read_all(managers: Sequence[SafetyManager]) -> list[Read]:
    """What the components of each of `managers` say, each component once. One that fails is reported by its
    manager, and left out."""
    found: list[Read] = []
    seen: set[int] = set()
    for manager in managers:
        read = Read()
        found.append(read)
        for component in manager.components():
            if id(component) in seen:
                continue
            seen.add(id(component))
            try:
                if component.kind == "memory":
                    read.of_memories.append(_limits(component.stats()))
                else:
                    readings = _read(manager, component)
                    read.of_components.append((component, readings))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                _report(manager, _text(component, "kind"), _text(component, "name"), error)
    return found


def _read(manager: SafetyManager, component: Any) -> tuple[Reading, ...]:
    """What a component says, checked; nothing where no family is made of its kind."""
    kind = component.kind
    if not isinstance(kind, str):
        raise TypeError(f"its kind is to be a text, and is {kind!r}")
    rows = _ROWS.get(kind)
    if rows is None:
        return ()
    figures = component.stats()
    labels = (manager.name, component.name)
    if kind == "branches":
        return (
            _reading(kind, labels[:1], rows, figures),
            *(
                _reading(BRANCH, (manager.name, name), PER_BRANCH, of_name)
                for name, of_name in figures.branches.items()
            ),
        )
    readings = [_reading(kind, labels, rows, figures)]
    if kind == "distributor":
        for group, of_group in figures.groups.items():
            readings.append(_reading(GROUP, (*labels, group), PER_GROUP, of_group))
    return tuple(readings)


def _reading(kind: str, labels: tuple[str, ...], rows: tuple[Row, ...], figures: Any) -> Reading:
    """`figures`, after it was seen that families can be made of them. Raises what those would."""
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"its name is to be a text, and is {label!r}")
    reading = Reading(
        kind, labels, rows, SimpleNamespace(**{row.field: getattr(figures, row.field) for row in rows})
    )
    check(reading)
    return reading


def check(reading: Reading) -> None:
    """See that families can be made of `reading`. Raises what they would."""
    for row in reading.rows:
        for sample in row.family(
            tuple("abcd"[: len(reading.labels)]), [(reading.labels, reading.figures)]
        ).samples:
            float(sample.value)


def _limits(figures: Any) -> Any:
    """The figures of a memory manager, after it was seen that its limits are some."""
    for budget in (*figures.types.values(), getattr(figures, "all", NO_LIMITS)):
        for limit in (budget.bytes_limit, budget.objects_limit):
            float(lower(limit, 0) or 0)
    return figures


def _text(component: Any, attribute: str) -> str:
    """An attribute for a message, whatever it is; empty where it cannot be had, which the message is about
    then."""
    try:
        value = getattr(component, attribute)
        return value if isinstance(value, str) and value else ""
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""


def _report(manager: SafetyManager, kind: str, name: str, error: BaseException) -> None:
    """Have the manager count and tell that a component's figures are missing."""
    kind = kind if kind in (*_ROWS, "memory") else "component"
    manager.report_panic(f"figures of {kind}{f' {name!r}' if name else ''}", error, type_name=kind)


def shown(manager: SafetyManager, known: Known, read: Read) -> list[Reading]:
    """One reading for each set of labels, with the figures of all that have it: a series is given once.
    Figures that cannot be put together are those of the first, and the others are reported."""
    groups: dict[tuple[str, tuple[str, ...]], list[Reading]] = {}
    for reading in (
        *(one for _, readings in read.of_components for one in readings),
        *known.retained(read.of_components),
    ):
        groups.setdefault((reading.kind, known.label(reading)), []).append(reading)
    found = []
    for (_, labels), group in groups.items():
        first = group[0]
        try:
            whole = attrs.evolve(
                first, labels=labels, figures=merged(first.rows, [one.figures for one in group])
            )
            check(whole)
        except Exception as error:
            whole = attrs.evolve(first, labels=labels)
            for other in group[1:]:
                _report(manager, other.kind, other.labels[1], error)
        found.append(whole)
    return found


def with_budgets(types: Mapping[str, TypeStats], memories: Sequence[Any]) -> Mapping[str, TypeStats]:
    """`types` with the limits that memory managers set for them; the lowest of several."""
    limited = dict(types)
    for memory in memories:
        for name, budget in memory.types.items():
            known = limited.get(name)
            if known is not None:
                limited[name] = attrs.evolve(
                    known,
                    bytes_limit=lower(known.bytes_limit, budget.bytes_limit),
                    objects_limit=lower(known.objects_limit, budget.objects_limit),
                )
    return limited


NO_LIMITS = SimpleNamespace(bytes_limit=None, objects_limit=None)


def budget_of_all(memories: Sequence[Any]) -> SimpleNamespace:
    """The limits that memory managers set for all types together; the lowest of several."""
    limits = NO_LIMITS
    for memory in memories:
        everything = getattr(memory, "all", NO_LIMITS)
        limits = SimpleNamespace(
            bytes_limit=lower(limits.bytes_limit, everything.bytes_limit),
            objects_limit=lower(limits.objects_limit, everything.objects_limit),
        )
    return limits


def lower(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, of which None is none."""
    return min(one, other) if one is not None and other is not None else one if other is None else other
