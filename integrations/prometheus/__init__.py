"""Prometheus figures, by pull: a scrape asks each manager for one snapshot, and between scrapes nothing costs
anything.

The problem: metric objects that are touched where things happen take a lock there, and things happen here
inside the collector, in signal handlers and on streaming threads, where a lock deadlocks against itself. So
no metric object exists. A scrape asks `SafetyManager.stats()`, which is exact and costs by the number of
types, and turns the answer into families by the tables below: one row per family, one table per kind of thing
(`PER_TYPE`, `PER_QUEUE`, …). A new kind is a new table.

Guaranteed: no user code runs in a scrape but the ``stats()`` of components. One of these that fails, or gives
figures that are none, costs the others nothing: it is left out, and its manager reports it as a panic of the
type that is the component's kind (``lifecycle_panics_total`` and the event ``panic``, once for each scrape).
Counters never go down while the process lives, whatever comes and goes (`retained`).
A scrape takes no lock of ours: it may happen on any thread at any moment; every family is given once, however
many managers there are; counters stand at 0 for every known type (the snapshots have every key from the
start); a closed manager is still scraped and shows its final figures. Labels are never ids, objects' names or
sites. Past `MAX_TYPES` types (pools, groups, …) of one manager, the rest share the label ``_other_``.

Relied on: a manager's types keep their order and never vanish, so that the same ones keep labels of their
own.

prometheus-client's multi-process mode takes no custom collectors. Workers of a pre-fork server are added up
by `WorkersCollector`, or each has a port of its own.

- `workers`: several processes as one
- `collector`: what a registry asks
- `scrape`: every snapshot, sorted by what it is about
- `components`: whose figures are other people's code
- `retained`: what is gone, and who has a label of its own
- `merging`: several figures under one label
- `process`: the flight recorder's figures
- `families`: the tables
- `apps`: WSGI and ASGI, with the managers' health
- `shipped`: a dashboard and alert rules
"""

from lifecycle.integrations.prometheus.apps import ManagersHealth, asgi_app, health, wsgi_app
from lifecycle.integrations.prometheus.collector import LifecycleCollector
from lifecycle.integrations.prometheus.merging import MAX_TYPES, OTHER
from lifecycle.integrations.prometheus.shipped import dashboard_path, rules_path
from lifecycle.integrations.prometheus.workers import WorkersCollector

__all__ = [
    "MAX_TYPES",
    "OTHER",
    "LifecycleCollector",
    "ManagersHealth",
    "WorkersCollector",
    "asgi_app",
    "dashboard_path",
    "health",
    "rules_path",
    "wsgi_app",
]
