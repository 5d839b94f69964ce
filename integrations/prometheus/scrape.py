"""A scrape: every snapshot, sorted by what it is about, and the families that come of it."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterable, Sequence

import attrs
from prometheus_client import Metric
from prometheus_client.core import InfoMetricFamily

from lifecycle import SafetyManager, __version__
from lifecycle.integrations.prometheus.components import (
    BRANCH,
    GROUP,
    budget_of_all,
    read_all,
    shown,
    with_budgets,
)
from lifecycle.integrations.prometheus.families import (
    PER_BRANCH,
    PER_CAPTURE,
    PER_DISTRIBUTOR,
    PER_GROUP,
    PER_MANAGER,
    PER_PIPELINES,
    PER_POOL,
    PER_PROCESS,
    PER_QUEUE,
    PER_TEXTURE_CACHE,
    PER_TIMELINE,
    PER_TYPE,
    Sources,
)
from lifecycle.integrations.prometheus.merging import MAX_TYPES, by_name, capped
from lifecycle.integrations.prometheus.process import process_sources
from lifecycle.integrations.prometheus.retained import retain

ALL = "_all_"
"""The type label of a budget for all types together."""


@attrs.frozen
class Scrape:
    """What a scrape has found, by what it is about: label values and figures."""

    builds: frozenset[str] = frozenset()
    """The leak levels in use."""
    capped: Sequence[SafetyManager] = ()
    """The managers of which some types, pools or groups share a label."""
    types: Sources = attrs.field(factory=list)
    budgets: Sources = attrs.field(factory=list)
    """Limits of all types together."""
    queues: Sources = attrs.field(factory=list)
    managers: Sources = attrs.field(factory=list)
    components: dict[str, Sources] = attrs.field(factory=dict)
    """By kind."""
    process: Sources = attrs.field(factory=list)
    """Figures of the process, where a flight recorder runs."""


def scrape(managers: Sequence[SafetyManager]) -> Scrape:
    """Ask each manager, and each of its components, once."""
    now = Scrape(
        builds=frozenset(manager.config.leak_level for manager in managers),
        capped=[],
        process=process_sources(),
    )
    reads = read_all(managers)  # first, so that the snapshots count what fails here
    capped_managers = []
    for manager, read in zip(managers, reads, strict=True):
        stats = manager.stats()
        known = retain(manager, read.of_components, by_name(stats.queues))
        for reading in shown(manager, known, read):
            now.components.setdefault(reading.kind, []).append((reading.labels, reading.figures))
        limited = with_budgets(stats.types, read.of_memories)
        now.types.extend(((stats.manager, label), figures) for label, figures in capped(limited).items())
        now.budgets.append(((stats.manager, ALL), budget_of_all(read.of_memories)))
        now.queues.extend(((stats.manager, queue.queue), queue) for queue in known.queue_stats())
        now.managers.append(((stats.manager,), stats))
        if len(stats.types) > MAX_TYPES or known.capped:
            capped_managers.append(manager)
    return attrs.evolve(now, capped=capped_managers)


def families(scrape: Scrape) -> list[Metric]:
    """Every family."""
    of = scrape.components
    return [
        _build_info(scrape.builds),
        *(
            row.family(("manager", "type"), scrape.types + (scrape.budgets if row in LIMITS else []))
            for row in PER_TYPE
        ),
        *(row.family(("manager", "queue"), scrape.queues) for row in PER_QUEUE),
        *(row.family(("manager",), scrape.managers) for row in PER_MANAGER),
        *(row.family(("manager", "capture"), of.get("capture", [])) for row in PER_CAPTURE),
        *(row.family(("manager", "pool"), of.get("pool", [])) for row in PER_POOL),
        *(row.family(("manager", "distributor"), of.get("distributor", [])) for row in PER_DISTRIBUTOR),
        *(row.family(("manager", "distributor", "group"), of.get(GROUP, [])) for row in PER_GROUP),
        *(row.family(("manager", "branch"), of.get(BRANCH, [])) for row in PER_BRANCH),
        *(row.family(("manager",), of.get("branches", [])) for row in PER_PIPELINES),
        *(row.family(("manager", "timeline"), of.get("timeline", [])) for row in PER_TIMELINE),
        *(row.family(("manager", "cache"), of.get("texture_cache", [])) for row in PER_TEXTURE_CACHE),
        *(row.family((), scrape.process) for row in PER_PROCESS),
    ]


LIMITS = tuple(row for row in PER_TYPE if row.field in ("bytes_limit", "objects_limit"))


def _build_info(leak_levels: Iterable[str]) -> Metric:
    family = InfoMetricFamily(
        "lifecycle_build",
        "Versions of the library and of Python, and the leak level.",
        labels=("leak_level",),
    )
    for level in sorted(leak_levels):
        family.add_metric((level,), _BUILD)
    return family


_BUILD = {
    "version": __version__,
    "python": platform.python_version(),
    "free_threaded": "yes" if sysconfig.get_config_var("Py_GIL_DISABLED") else "no",
}
