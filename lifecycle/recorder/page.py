"""A recording as one HTML page: no network, nothing but the file itself.

The figures are data in one script element, and the page's own script makes text nodes of them: no text of the
recording is ever HTML (R8). A line of the program is read from the ``.py`` file that a site names, for the
sites that are shown.
"""

from __future__ import annotations

import bisect
import html
import json
import linecache
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from lifecycle.recorder import layout
from lifecycle.recorder.postmortem import Life, Report
from lifecycle.recorder.reader import Entry, plain
from lifecycle.recorder.report import short

POINTS = 120
"""Points of a curve."""
MOST_TYPES = 10
"""Types that are shown by themselves; the others are one."""
MOST_SITES = 50
MOST_MARKS = 3000
"""Records of the timeline."""
MOST_THREADS = 40
OTHERS = "other types"
WINDOW = 1.0
"""Seconds of the timeline."""
LARGEST_SOURCE = 1 << 20

_CAUSE_DROP = layout.CAUSES.index("drop")


def page_of(report: Report, *, sources: bool = True) -> str:
    """The page. `sources`: with the lines of the program that sites name, where its files are here."""
    template = (files("lifecycle.recorder") / "page.html").read_text(encoding="utf-8")
    text = json.dumps(data_of(report, sources=sources), allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    title = html.escape(plain(f"{report.recording.program or 'python'} {report.recording.pid}"))
    given = {"title": title, "data": text}
    # In one pass: what the recording says may look like a place of the template.
    return re.sub(r"\{\{(title|data)\}\}", lambda place: given[place[1]], template)


def data_of(report: Report, *, sources: bool = True) -> dict[str, Any]:
    """What the page shows, as data: times in seconds before the end (negative), addresses as text."""
    recording = report.recording
    end = recording.end
    first = recording.entries[0].time if recording.entries else recording.zero
    names = _names(report)
    return {
        "report": report.as_dict(),
        "text": str(report),
        "lasted": max(0.0, end - recording.zero),
        "from": first - end,
        "crashed": report.crashed,
        "types": [{"type": name, **_curves(report, name, names, first, end)} for name in _shown(names)],
        "releases": _releases(report),
        "holds": _holds(report),
        "sites": _sites(report, sources),
        "threads": _timeline(report),
        "window": WINDOW,
    }


# -- by type -------------------------------------------------------------------------------------------------


def _names(report: Report) -> dict[str, str]:
    """Under which name each type is shown."""
    counts = Counter(life.type for life in report.lives.values() if life.registered is not None)
    common = {name for name, _ in counts.most_common(MOST_TYPES)}
    return {name: name if name in common else OTHERS for name in counts}


def _shown(names: dict[str, str]) -> list[str]:
    return list(dict.fromkeys(names.values()))


def _curves(report: Report, shown: str, names: dict[str, str], first: float, end: float) -> dict[str, Any]:
    """Live objects, bytes, and objects that are shut and wait for their release, over time."""
    live: list[tuple[float, int, int]] = []
    backlog: list[tuple[float, int]] = []
    count = 0
    for life in report.lives.values():
        if life.registered is None or names[life.type] != shown:
            continue
        count += 1
        live.append((life.registered.time, 1, life.registered.b))
        if life.ended is not None:
            live.append((life.ended.time, -1, -life.registered.b))
        if life.shut is not None:
            backlog.append((life.shut.time, 1))
            over = life.begun or life.ended
            if over is not None:
                backlog.append((over.time, -1))
    step = max(end - first, 1e-9) / (POINTS - 1)
    times = [first + step * at for at in range(POINTS - 1)] + [end]
    objects = _sums([(time, one) for time, one, _ in live], times)
    size = _sums([(time, more) for time, _, more in live], times)
    return {"registered": count, "live": objects, "bytes": size, "backlog": _sums(backlog, times)}


def _sums(changes: list[tuple[float, int]], times: list[float]) -> list[int]:
    """The sum of the changes up to each of `times`."""
    changes.sort()
    when = [time for time, _ in changes]
    total, totals = 0, [0]
    for _, change in changes:
        total += change
        totals.append(total)
    return [totals[bisect.bisect_right(when, time)] for time in times]


# -- releases and holds --------------------------------------------------------------------------------------


def _releases(report: Report) -> list[dict[str, Any]]:
    """Release times by type, the slowest first."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    waited: defaultdict[str, list[float]] = defaultdict(list)
    failed: Counter[str] = Counter()
    for life in report.lives.values():
        if life.begun is not None and life.ended is not None:
            took[life.type].append(max(0.0, life.ended.time - life.begun.time))
            failed[life.type] += life.ended.flag in (2, 3)
            if life.shut is not None:
                waited[life.type].append(max(0.0, life.begun.time - life.shut.time))
    found: list[dict[str, Any]] = []
    for name, times in took.items():
        found.append(
            {
                "type": name,
                "count": len(times),
                "failed": failed[name],
                "median": _quantile(times, 0.5),
                "p99": _quantile(times, 0.99),
                "max": max(times),
                "wait": _quantile(waited[name], 0.99),
            }
        )
    return sorted(found, key=lambda one: (-one["max"], one["type"]))[:MOST_SITES]


def _quantile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _holds(report: Report) -> list[dict[str, Any]]:
    """Leases that had not ended. The end of a lease is written without its time, so of those that have ended
    nothing is known but how many there were."""
    recording = report.recording
    return [
        {
            "object": str(report.lives[use.object]) if use.object in report.lives else str(use.object),
            "kind": use.kind,
            "thread": recording.thread(use.thread),
            "for": max(0.0, recording.end - use.since),
        }
        for use in report.in_use[:MOST_SITES]
    ]


# -- sites ---------------------------------------------------------------------------------------------------


def _sites(report: Report, sources: bool) -> list[dict[str, Any]]:
    """Where objects were registered that were never closed, or are live at the end."""
    groups: dict[tuple[str, str], list[Life]] = {}
    for life in report.lives.values():
        if life.registered is None:
            continue
        if _dropped(life) or life.ended is None:
            groups.setdefault((life.type, life.registered.site), []).append(life)
    end = report.recording.end
    found: list[dict[str, Any]] = []
    for (name, site), lives in groups.items():
        live = [life for life in lives if life.ended is None]
        found.append(
            {
                "type": name,
                "site": short(site) if site else "an unknown line",
                "dropped": sum(map(_dropped, lives)),
                "live": len(live),
                "bytes": sum(life.registered.b for life in live if life.registered is not None),
                "oldest": max((end - life.registered.time for life in live if life.registered), default=None),
                "path": site,
            }
        )
    found.sort(key=lambda one: (-one["dropped"], -one["bytes"], -one["live"], one["site"]))
    found = found[:MOST_SITES]
    for one in found:
        path = one.pop("path")
        one["line"] = _line(path) if sources else ""
    return found


def _dropped(life: Life) -> bool:
    """Return True if its release began because nobody had it any more: without a shut, or with that cause."""
    if life.shut is not None:
        return life.shut.flag == _CAUSE_DROP
    return life.begun is not None and life.begun.flag in (0, _CAUSE_DROP)


def _line(site: str) -> str:
    """The line of the program, empty where its file is not here. Of a hostile recording nothing but a line of
    a Python file is read."""
    path, _, number = site.rpartition(":")
    if not (path.endswith(".py") and number.isdigit() and os.path.isabs(path)):
        return ""
    try:
        there = os.lstat(path)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(there.st_mode) or there.st_size > LARGEST_SOURCE:
        return ""
    return plain(linecache.getline(path, int(number)).strip(), 200)


# -- the last second -----------------------------------------------------------------------------------------


def _timeline(report: Report) -> list[dict[str, Any]]:
    """What each thread did in the last second: bars for releases and leases, marks for the rest."""
    recording = report.recording
    end = recording.end
    since = end - WINDOW
    rows: dict[int, dict[str, Any]] = {}

    def row(native: int) -> dict[str, Any]:
        if native not in rows:
            crashed = bool(report.crashed and report.thread and native == report.thread)
            rows[native] = {"thread": recording.thread(native), "crashed": crashed, "bars": [], "marks": []}
        return rows[native]

    recent = [entry for entry in recording.entries if entry.time >= since][-MOST_MARKS:]
    for entry in recent:
        row(entry.thread)["marks"].append(_mark(report, entry, end))
    for life in _lives_in(report, recent):
        if life.begun is not None and (life.ended is None or life.ended.time >= since):
            until = end if life.ended is None else life.ended.time
            running = life.ended is None
            row(life.begun.thread)["bars"].append(
                {
                    "what": f"release of {life}" + (", not ended" if running else ""),
                    "kind": "running" if running else "release",
                    "from": max(life.begun.time, since) - end,
                    "to": until - end,
                }
            )
    for use in report.in_use[:MOST_MARKS]:
        what = str(report.lives[use.object]) if use.object in report.lives else str(use.object)
        row(use.thread)["bars"].append(
            {"what": f"{use.kind} of {what}", "kind": "lease", "from": max(use.since, since) - end, "to": 0.0}
        )
    order = sorted(rows.values(), key=lambda one: (not one["crashed"], one["thread"]))
    return order[:MOST_THREADS]


def _lives_in(report: Report, recent: Iterable[Entry]) -> list[Life]:
    named = dict.fromkeys(entry.object for entry in recent if entry.object)
    named.update(dict.fromkeys(life.object for life in report.releasing))
    return [report.lives[id] for id in named if id in report.lives]


def _mark(report: Report, entry: Entry, end: float) -> dict[str, Any]:
    life = report.lives.get(entry.object)
    what = layout.OPERATIONS[entry.operation]
    if entry.operation == layout.SHUT and entry.flag < len(layout.CAUSES):
        what = f"{what} ({layout.CAUSES[entry.flag]})"
    text = f"{what} {life or ''}".strip()
    if entry.operation in (layout.NOTE, layout.MISUSE, layout.RISK) and entry.name:
        text = f"{text}: {entry.name}"
    if entry.site:
        text = f"{text}, {short(entry.site)}"
    wrong = entry.operation in (layout.MISUSE, layout.RISK)
    return {"at": entry.time - end, "what": text, "wrong": wrong}
