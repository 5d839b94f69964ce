"""Writes the Grafana dashboard that is shipped: ``python -m tools.dashboard``. `PANELS` has its panels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent.parent / "integrations" / "prometheus" / "dashboard.json"

Panel = tuple[str, str, tuple[tuple[str, str], ...], str]
"""Title, unit, queries with their legends, and what it shows."""

M = 'manager=~"$manager", type=~"$type"'
OF_MANAGER = 'manager=~"$manager"'

PANELS: dict[str, tuple[Panel, ...]] = {
    "Objects": (
        (
            "Live objects",
            "short",
            ((f"sum by (type) (lifecycle_objects{{{M}}})", "{{type}}"),),
            "What is registered and has not ended.",
        ),
        (
            "Native bytes",
            "bytes",
            (
                (f"sum by (type) (lifecycle_object_bytes{{{M}}})", "{{type}}"),
                (f"sum by (type) (lifecycle_object_bytes_limit{{{M}}})", "limit of {{type}}"),
            ),
            "As registered with size=, and the budget where one is set.",
        ),
        (
            "Age of the oldest object",
            "s",
            ((f"time() - (lifecycle_oldest_object_timestamp_seconds{{{M}}} > 0)", "{{type}}"),),
            "Grows without an end where something is never closed.",
        ),
        (
            "Registered and ended",
            "ops",
            (
                (f"sum by (type) (rate(lifecycle_registered_total{{{M}}}[$__rate_interval]))", "{{type}}"),
                (
                    f"sum by (end) (rate(lifecycle_ended_total{{{M}}}[$__rate_interval]))",
                    "ended: {{end}}",
                ),
            ),
            "Each second.",
        ),
        (
            "Never closed, held too long",
            "short",
            (
                (f"sum by (type) (increase(lifecycle_leaks_total{{{M}}}[1h]))", "never closed: {{type}}"),
                (f"sum by (type) (lifecycle_held_too_long{{{M}}})", "held too long: {{type}}"),
            ),
            "Collected unclosed in the last hour; older than max_age now.",
        ),
        (
            "Panics, errors, refused accesses",
            "ops",
            (
                (
                    f"sum by (type) (rate(lifecycle_panics_total{{{M}}}[$__rate_interval]))",
                    "panics: {{type}}",
                ),
                (
                    f"sum by (type) (rate(lifecycle_errors_total{{{M}}}[$__rate_interval]))",
                    "errors: {{type}}",
                ),
                (
                    f"sum by (state) (rate(lifecycle_refused_total{{{M}}}[$__rate_interval]))",
                    "refused: {{state}}",
                ),
            ),
            "What accesses ended in.",
        ),
    ),
    "Releases": (
        (
            "Duration of releases, p50 and p99",
            "s",
            tuple(
                (
                    f"histogram_quantile({q}, sum by (le, type) "
                    f"(rate(lifecycle_release_duration_seconds_bucket{{{M}}}[$__rate_interval])))",
                    f"p{int(q * 100)} {{{{type}}}}",
                )
                for q in (0.5, 0.99)
            ),
            "The release call alone.",
        ),
        (
            "From close to release, p99",
            "s",
            (
                (
                    "histogram_quantile(0.99, sum by (le, type) "
                    f"(rate(lifecycle_release_wait_seconds_bucket{{{M}}}[$__rate_interval])))",
                    "{{type}}",
                ),
            ),
            "What holders and the queue take.",
        ),
        (
            "Failed and repeated releases",
            "short",
            (
                (
                    f"sum by (reason) (increase(lifecycle_release_failures_total{{{M}}}[1h]))",
                    "failed: {{reason}}",
                ),
                (f"sum by (type) (increase(lifecycle_release_retries_total{{{M}}}[1h]))", "again: {{type}}"),
            ),
            "In the last hour.",
        ),
        (
            "Waiting in release queues",
            "short",
            (
                (f"lifecycle_release_queue_entries{{{OF_MANAGER}}}", "{{queue}}"),
                (f"lifecycle_fences_pending{{{OF_MANAGER}}}", "fences of {{queue}}"),
            ),
            "Releases that wait to run.",
        ),
        (
            "Oldest waiting release, last drain",
            "s",
            (
                (
                    f"time() - (lifecycle_release_queue_oldest_timestamp_seconds{{{OF_MANAGER}}} > 0)",
                    "oldest in {{queue}}",
                ),
                (
                    f"time() - (lifecycle_release_queue_last_drain_timestamp_seconds{{{OF_MANAGER}}} > 0)",
                    "since the last drain of {{queue}}",
                ),
            ),
            "A queue that nobody drains.",
        ),
        (
            "Outcomes of queues",
            "ops",
            (
                (
                    "sum by (queue, result) "
                    f"(rate(lifecycle_release_queue_outcomes_total{{{OF_MANAGER}}}[$__rate_interval]))",
                    "{{queue}}: {{result}}",
                ),
            ),
            "Run where they were closed, handed over, or orphaned.",
        ),
    ),
    "The manager itself": (
        (
            "Stuck workers, quarantined releases",
            "short",
            (
                (f"lifecycle_stuck_workers{{{OF_MANAGER}}}", "stuck in {{manager}}"),
                (f"lifecycle_stuck_workers_limit{{{OF_MANAGER}}}", "limit of {{manager}}"),
                (f"lifecycle_quarantined_releases{{{OF_MANAGER}}}", "quarantined in {{manager}}"),
            ),
            "Above 0 natives are kept for good.",
        ),
        (
            "The maintenance thread",
            "s",
            (
                (
                    f"time() - (lifecycle_keeper_last_run_timestamp_seconds{{{OF_MANAGER}}} > 0)",
                    "since the last pass in {{manager}}",
                ),
            ),
            "Without objects it rests.",
        ),
        (
            "Events",
            "short",
            (
                (f"lifecycle_events_pending{{{OF_MANAGER}}}", "pending in {{manager}}"),
                (
                    f"increase(lifecycle_observer_events_dropped_total{{{OF_MANAGER}}}[1h])",
                    "dropped in {{manager}}, in an hour",
                ),
            ),
            "Dropped where an observer is slow; figures stay exact.",
        ),
        (
            "Flight recorder",
            "ops",
            (
                ("rate(lifecycle_recorder_records_total[$__rate_interval])", "records of {{instance}}"),
                ("increase(lifecycle_recorder_left_out_total[1h])", "left out in an hour: {{reason}}"),
                ("lifecycle_previous_run_crashed", "{{instance}}: the run before crashed"),
            ),
            "Nothing without a recorder.",
        ),
    ),
    "Pools and distribution": (
        (
            "Items of pools",
            "short",
            (
                (f"lifecycle_pool_items{{{OF_MANAGER}}}", "{{pool}}: {{state}}"),
                (f"lifecycle_pool_items_limit{{{OF_MANAGER}}}", "{{pool}}: limit"),
                (f"lifecycle_pool_waiters{{{OF_MANAGER}}}", "{{pool}}: waiting"),
            ),
            "Lent, idle, and callers that wait.",
        ),
        (
            "Time to get an item, p99",
            "s",
            (
                (
                    "histogram_quantile(0.99, sum by (le, pool) "
                    f"(rate(lifecycle_pool_get_wait_seconds_bucket{{{OF_MANAGER}}}[$__rate_interval])))",
                    "{{pool}}",
                ),
            ),
            "Of all gets.",
        ),
        (
            "What gets ended in",
            "ops",
            (
                (
                    "sum by (pool, result) "
                    f"(rate(lifecycle_pool_gets_total{{{OF_MANAGER}}}[$__rate_interval]))",
                    "{{pool}}: {{result}}",
                ),
            ),
            "`created` all the time: the pool is too small, or nothing comes back.",
        ),
        (
            "Guarded",
            "bytes",
            (
                (f"lifecycle_guarded_bytes{{{OF_MANAGER}}}", "bytes of {{pool}}"),
                (f"increase(lifecycle_guarded_releases_total{{{OF_MANAGER}}}[1h])", "{{pool}}, in an hour"),
            ),
            "Memory that came back and is inaccessible for a while.",
        ),
        (
            "Published, received, missed",
            "ops",
            (
                (
                    f"rate(lifecycle_distributor_published_total{{{OF_MANAGER}}}[$__rate_interval])",
                    "published by {{distributor}}",
                ),
                (
                    f"rate(lifecycle_receiver_received_total{{{OF_MANAGER}}}[$__rate_interval])",
                    "received by {{group}}",
                ),
                (
                    f"rate(lifecycle_receiver_missed_total{{{OF_MANAGER}}}[$__rate_interval])",
                    "missed by {{group}}",
                ),
            ),
            "Frames each second, summed over a group.",
        ),
        (
            "Lag of receivers",
            "short",
            (
                (f"lifecycle_receiver_lag_frames{{{OF_MANAGER}}}", "{{group}}"),
                (f"lifecycle_distributor_receivers{{{OF_MANAGER}}}", "receivers of {{group}}"),
                (
                    f"increase(lifecycle_receiver_evictions_total{{{OF_MANAGER}}}[1h])",
                    "evicted from {{group}}",
                ),
            ),
            "The largest in a group.",
        ),
    ),
    "Captures": (
        (
            "Frames",
            "ops",
            (
                (
                    "sum by (capture, result) "
                    f"(rate(lifecycle_capture_frames_total{{{OF_MANAGER}}}[$__rate_interval]))",
                    "{{capture}}: {{result}}",
                ),
            ),
            "By what became of them.",
        ),
        (
            "Since the last frame",
            "s",
            (
                (
                    f"time() - (lifecycle_capture_last_frame_timestamp_seconds{{{OF_MANAGER}}} > 0)",
                    "{{capture}}",
                ),
            ),
            "A source that stopped, or a pipeline that starves.",
        ),
        (
            "Callback, p99; frames held",
            "s",
            (
                (
                    "histogram_quantile(0.99, sum by (le, capture) "
                    f"(rate(lifecycle_capture_callback_duration_seconds_bucket{{{OF_MANAGER}}}[$__rate_interval])))",
                    "p99 {{capture}}",
                ),
                (f"lifecycle_capture_frames_held{{{OF_MANAGER}}}", "held of {{capture}}"),
            ),
            "Held: alive beyond their callback.",
        ),
    ),
    "Branches": (
        (
            "Buffers of branches",
            "ops",
            (
                (
                    "sum by (branch, result) "
                    f"(rate(lifecycle_branch_frames_total{{{OF_MANAGER}}}[$__rate_interval]))",
                    "{{branch}}: {{result}}",
                ),
            ),
            "Passed on, dropped after the branch's end, refused while it was flushed or stopped.",
        ),
        (
            "Ends of branches",
            "short",
            (
                (f"increase(lifecycle_branches_ended_total{{{OF_MANAGER}}}[1h])", "{{reason}}"),
                (f"increase(lifecycle_unfinished_files_total{{{OF_MANAGER}}}[1h])", "files not finished"),
            ),
            "In the last hour: by themselves, or closed before; and recordings that may be incomplete.",
        ),
    ),
    "Devices": (
        (
            "Submissions in flight",
            "short",
            ((f"lifecycle_submissions_in_flight{{{OF_MANAGER}}}", "{{timeline}}"),),
            "Work that a device has, whose fence has not signalled.",
        ),
        (
            "Age of the oldest submission",
            "s",
            (
                (
                    f"time() - (lifecycle_submission_oldest_timestamp_seconds{{{OF_MANAGER}}} > 0)",
                    "{{timeline}}",
                ),
            ),
            "Grows without an end where a device hangs, or nobody polls.",
        ),
        (
            "Submissions and waits",
            "ops",
            (
                (
                    f"rate(lifecycle_submissions_total{{{OF_MANAGER}}}[$__rate_interval])",
                    "{{timeline}}: {{end}}",
                ),
                (
                    f"rate(lifecycle_submission_waits_total{{{OF_MANAGER}}}[$__rate_interval])",
                    "{{timeline}}: waited for",
                ),
            ),
            "Ended each second: their fence signalled, or was lost.",
        ),
        (
            "Caches of textures",
            "short",
            (
                (f"lifecycle_texture_cache_entries{{{OF_MANAGER}}}", "textures of {{cache}}"),
                (
                    "sum by (cache, result) "
                    f"(rate(lifecycle_texture_cache_gets_total{{{OF_MANAGER}}}[$__rate_interval]))",
                    "{{cache}}: {{result}} a second",
                ),
                (
                    f"increase(lifecycle_texture_cache_rebuilds_total{{{OF_MANAGER}}}[1h])",
                    "{{cache}}: rebuilt in an hour",
                ),
            ),
            "A rebuild follows a change of context.",
        ),
        (
            "Bytes of cached textures",
            "bytes",
            ((f"lifecycle_texture_cache_bytes{{{OF_MANAGER}}}", "{{cache}}"),),
            "As given with size=.",
        ),
    ),
}


def queries() -> list[str]:
    """Every query of the dashboard, with everything chosen."""
    chosen = {"$manager": ".*", "$type": ".*", "$__rate_interval": "1m"}
    found = []
    for panels in PANELS.values():
        for panel in panels:
            for query, _ in panel[2]:
                for name, value in chosen.items():
                    query = query.replace(name, value)
                found.append(query)
    return found


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, rows in PANELS.items():
        panels.append(
            {
                "type": "row",
                "id": len(panels) + 1,
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        y += 1
        for at, (name, unit, targets, says) in enumerate(rows):
            panels.append(
                {
                    "type": "timeseries",
                    "id": len(panels) + 1,
                    "title": name,
                    "description": says,
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "gridPos": {"x": at % 3 * 8, "y": y + at // 3 * 8, "w": 8, "h": 8},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "options": {
                        "legend": {"displayMode": "list", "placement": "bottom"},
                        "tooltip": {"mode": "multi", "sort": "desc"},
                    },
                    "targets": [
                        {
                            "refId": chr(65 + number),
                            "expr": query,
                            "legendFormat": legend,
                            "datasource": {"type": "prometheus", "uid": "${datasource}"},
                        }
                        for number, (query, legend) in enumerate(targets)
                    ],
                }
            )
        y += (len(rows) + 2) // 3 * 8
    return {
        "title": "native-lifecycle",
        "uid": "native-lifecycle",
        "tags": ["lifecycle"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"},
                _variable("manager", "Manager", "label_values(lifecycle_events_pending, manager)"),
                _variable(
                    "type", "Type", 'label_values(lifecycle_registered_total{manager=~"$manager"}, type)'
                ),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


def main() -> int:
    """Write it."""
    PATH.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
