"""A scrape: every snapshot, sorted by what it is about, and the families that come of it."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterable, Sequence

import attrs
from prometheus_client import Metric
from prometheus_client.core import InfoMetricFamily

from lifecycle import SafetyManager, __version__
from lifecycle.integrations.prometheus.components import distinct, of, read_all, with_budgets
from lifecycle.integrations.prometheus.families import (
    PER_CAPTURE,
    PER_DISTRIBUTOR,
    PER_GROUP,
    PER_MANAGER,
    PER_POOL,
    PER_QUEUE,
    PER_TYPE,
    Sources,
)
from lifecycle.integrations.prometheus.merging import MAX_TYPES, by_name, capped


@attrs.frozen
class Scrape:
    """What a scrape has found, by what it is about: label values and figures."""

    builds: frozenset[str] = frozenset()
    """The leak levels in use."""
    capped: Sequence[SafetyManager] = ()
    """The managers some of whose types share a label."""
    types: Sources = attrs.field(factory=list)
    queues: Sources = attrs.field(factory=list)
    managers: Sources = attrs.field(factory=list)
    captures: Sources = attrs.field(factory=list)
    pools: Sources = attrs.field(factory=list)
    distributors: Sources = attrs.field(factory=list)
    groups: Sources = attrs.field(factory=list)


def scrape(managers: Sequence[SafetyManager]) -> Scrape:
    """Ask each manager, and each of its components, once."""
    components = read_all(managers)  # first, so that the snapshots count what fails here
    captures, pools, memories = (of(components, kind) for kind in ("capture", "pool", "memory"))
    distributors = of(components, "distributor")
    captures, pools = distinct(captures), distinct(pools)
    published = distinct([one.with_figures(attrs.evolve(one.figures, groups={})) for one in distributors])
    groups = distinct(
        [
            one.with_figures(figures, group)
            for one in distributors
            for group, figures in one.figures.groups.items()
        ]
    )
    snapshots = [manager.stats() for manager in managers]
    return Scrape(
        builds=frozenset(manager.config.leak_level for manager in managers),
        capped=[m for m, stats in zip(managers, snapshots, strict=True) if len(stats.types) > MAX_TYPES],
        types=[
            ((stats.manager, label), figures)
            for manager, stats in zip(managers, snapshots, strict=True)
            for label, figures in capped(
                with_budgets(stats.types, [one for one in memories if one.manager is manager])
            ).items()
        ],
        queues=by_name([(queue.queue, queue) for stats in snapshots for queue in stats.queues]),
        managers=[((stats.manager,), stats) for stats in snapshots],
        captures=[(one.labels, one.figures) for one in captures],
        pools=[(one.labels, one.figures) for one in pools],
        distributors=[(one.labels, one.figures) for one in published],
        groups=[(one.labels, one.figures) for one in groups],
    )


def families(scrape: Scrape) -> list[Metric]:
    """Every family."""
    return [
        _build_info(scrape.builds),
        *(row.family(("manager", "type"), scrape.types) for row in PER_TYPE),
        *(row.family(("queue",), scrape.queues) for row in PER_QUEUE),
        *(row.family(("manager",), scrape.managers) for row in PER_MANAGER),
        *(row.family(("capture",), scrape.captures) for row in PER_CAPTURE),
        *(row.family(("pool",), scrape.pools) for row in PER_POOL),
        *(row.family(("distributor",), scrape.distributors) for row in PER_DISTRIBUTOR),
        *(row.family(("distributor", "group"), scrape.groups) for row in PER_GROUP),
    ]


def _build_info(leak_levels: Iterable[str]) -> Metric:
    family = InfoMetricFamily("lifecycle_build", "What runs here.", labels=("leak_level",))
    for level in sorted(leak_levels):
        family.add_metric((level,), _BUILD)
    return family


_BUILD = {
    "version": __version__,
    "python": platform.python_version(),
    "free_threaded": "yes" if sysconfig.get_config_var("Py_GIL_DISABLED") else "no",
}
