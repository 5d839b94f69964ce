"""A post-mortem as text for a terminal, and as data for JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lifecycle.recorder import layout
from lifecycle.recorder.files import unknown_end
from lifecycle.recorder.reader import Entry, Recording, Use, plain

if TYPE_CHECKING:
    from lifecycle.recorder.postmortem import Life, Report

LISTED = 50
"""Uses and releases that are shown."""


def text_of(report: Report) -> str:
    """The report as text, without an end of line."""
    recording = report.recording
    lines = [_head(report)]
    if not recording.clean and not recording.live:
        lines.append(f"ended    {_ending(report)}")
    fault = recording.fault
    if fault is not None and not recording.clean:
        where = "an address that the kernel does not say" if fault.address is None else f"{fault.address:#x}"
        lines.append(f"fault    {fault.access or 'access'} of {where}")
    lines.append(
        f"records  {_number(recording.kept)} of {_number(recording.written)}, {recording.torn} torn, "
        f"{len(recording.missing)} lost"
    )
    if report.crashed:
        lines += ["", "suspects", *_suspects(report)]
    if report.in_use:
        lines += ["in use", *_uses(report)]
    elsewhere = [life for life in report.releasing if life.object not in _named(report)]
    if elsewhere:
        lines += ["releasing", *(_releasing(report, life) for life in elsewhere[:LISTED])]
    if report.last:
        lines += ["last", *_last(report)]
    lines.append(f"unknown: {report.unknown[0] if report.unknown else 'nothing'}")
    lines += [f"         {one}" for one in report.unknown[1:]]
    return "\n".join(lines)


def _head(report: Report) -> str:
    recording = report.recording
    lasted = seconds(recording.end - recording.zero)
    by = f", by {recording.ended_by} after its managers were closed" if recording.ended_by else ""
    how = f"ended well{by}" if recording.clean else "still running" if recording.live else "no clean end"
    child = f", child of {recording.parent}" if recording.child else ""
    program = f", {recording.program}" if recording.program else ""
    return (
        f"{plain(os.path.basename(recording.path))}: process {recording.pid}{child}, Python "
        f"{recording.python.strip()}{program}, {lasted}; {how}"
    )


def _ending(report: Report) -> str:
    recording = report.recording
    if not report.signal:
        return unknown_end(recording.boot, elsewhere=recording.text_elsewhere)
    frame = report.frame
    where = f" in {short(frame.file)}:{frame.line} {frame.function}" if frame is not None else ""
    thread = f", thread {recording.thread(report.thread)}" if report.thread else ""
    return f"{report.signal}{where}{thread}"


def _suspects(report: Report) -> list[str]:
    if not report.suspects:
        return ["  none: nothing recorded points at an object"]
    lines = []
    for number, suspect in enumerate(report.suspects, 1):
        lines.append(f"  {number}. {suspect.life}: {suspect.why}")
        more = []
        use = suspect.life.use
        if use is not None:
            ended = "ended" if use.ended else "not ended"
            begun = suspect.life.begun
            if not use.ended and begun is not None:
                ended = "ended before the release"
            more.append(f"last {use.kind}: {report.recording.thread(use.thread)}, {ended}")
        registered = suspect.life.registered
        if registered is not None:
            at = f" at {short(registered.site)}" if registered.site else ""
            ago = seconds(report.recording.end - registered.time)
            more.append(f"registered{at}, {ago} before the last record")
        if more:
            lines.append(f"       {' · '.join(more)}")
    return lines


def _uses(report: Report) -> list[str]:
    recording = report.recording
    lines = []
    for use in report.in_use[:LISTED]:
        life = report.lives[use.object]
        here = ", the thread that crashed," if report.thread and use.thread == report.thread else ""
        lines.append(
            f"  {life!s:22} {_VERBS[use.kind]} by {recording.thread(use.thread)}{here} for "
            f"{lasting(recording, use.since)}"
        )
    if len(report.in_use) > LISTED:
        lines.append(f"  and {len(report.in_use) - LISTED} more")
    return lines


_VERBS = {"lease": "leased", "access": "accessed", "exclusive": "used exclusively"}


def _releasing(report: Report, life: Life) -> str:
    assert life.begun is not None
    recording = report.recording
    return f"  {life!s:22} on {recording.thread(life.begun.thread)} for {lasting(recording, life.begun.time)}"


def _named(report: Report) -> set[int]:
    return {suspect.life.object for suspect in report.suspects}


def _last(report: Report) -> list[str]:
    recording = report.recording
    lines = []
    for entry in report.last:
        life = report.lives.get(entry.object)
        what = f"  {life}" if life is not None else ""
        if entry.operation == layout.NOTE:
            what = f"  {entry.name!r}"
        elif entry.operation == layout.ENDS and entry.name:
            what += f"  {entry.name}"
        elif entry.operation in (layout.PUBLISHED, layout.RECEIVED):
            what += f"  {entry.name} frame {entry.a}"
        elif entry.operation == layout.LOAN:
            what += f"  {entry.name}"
        site = f"  {short(entry.site)}" if entry.site else ""
        before = f"{(entry.time - recording.end) * 1e3:.2f}"
        lines.append(
            f"  {before:>9} ms  {recording.thread(entry.thread):22} {describe(entry):22}{what}{site}"
        )
    return lines


def describe(entry: Entry) -> str:
    """What a record says was done."""
    name = layout.OPERATIONS[entry.operation]
    if entry.operation == layout.SHUT and 0 < entry.flag < len(layout.CAUSES):
        return f"{name} ({layout.CAUSES[entry.flag]})"
    if entry.operation == layout.ENDS and 1 < entry.flag < len(layout.OUTCOMES):
        return f"{name} ({layout.OUTCOMES[entry.flag]})"
    return name


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


# -- as data -------------------------------------------------------------------------------------------------


def dict_of(report: Report) -> dict[str, Any]:
    """The report as data."""
    recording = report.recording
    fault = recording.fault
    thread = recording.thread(report.thread) if report.thread else None
    return {
        "version": 1,
        "file": plain(recording.path),
        "process": {
            "pid": recording.pid,
            "parent": recording.parent,
            "child": recording.child,
            "program": recording.program,
            "python": recording.python.strip(),
            "library": recording.library,
            "platform": recording.platform,
            "started": recording.started,
            "clean": recording.clean,
            "running": recording.live,
        },
        "end": {
            "signal": report.signal or None,
            "ended_by": recording.ended_by or None,
            "thread": thread,
            "frames": [
                {"file": frame.file, "line": frame.line, "function": frame.function}
                for frame in report.frames
            ],
            "fault": None
            if fault is None or recording.clean
            else {
                "address": None if fault.address is None else f"{fault.address:#x}",
                "access": fault.access,
            },
        },
        "suspects": [
            {
                **_life(suspect.life),
                "why": suspect.why,
                "rule": suspect.rule,
                "site": suspect.site or None,
                "other_site": suspect.other_site or None,
                "thread": recording.thread(suspect.thread),
                "before_end": suspect.before_end,
            }
            for suspect in report.suspects
        ],
        "in_use": [_use(report, use) for use in report.in_use],
        "releasing": [
            {
                **_life(life),
                "thread": recording.thread(life.begun.thread if life.begun else 0),
                "for": recording.until - life.begun.time if life.begun else None,
            }
            for life in report.releasing
        ],
        "last": [_entry(report, entry) for entry in report.last],
        "records": {
            "kept": recording.kept,
            "written": recording.written,
            "torn": recording.torn,
            "lost": len(recording.missing),
        },
        "unknown": list(report.unknown),
    }


def _life(life: Life) -> dict[str, Any]:
    return {"object": life.object, "type": life.type or None, "name": life.name or None}


def _use(report: Report, use: Use) -> dict[str, Any]:
    return {
        **_life(report.lives[use.object]),
        "kind": use.kind,
        "thread": report.recording.thread(use.thread),
        "for": report.recording.until - use.since,
    }


def _entry(report: Report, entry: Entry) -> dict[str, Any]:
    life = report.lives.get(entry.object)
    return {
        "number": entry.number,
        "before_end": report.recording.end - entry.time,
        "thread": report.recording.thread(entry.thread),
        "operation": describe(entry),
        "object": entry.object or None,
        "type": entry.type or None,
        "name": (life.name if life is not None else entry.name) or None,
        "site": entry.site or None,
    }


# -- words ---------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """A duration for people."""
    value = max(0.0, value)
    if value < 1e-3:
        return f"{value * 1e3:.2f} ms"
    if value < 1:
        return f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value:.3f} s"
    return f"{value:.1f} s"


def lasting(recording: Recording, since: float) -> str:
    """How long what has not ended has gone on, for people. Of a process that is gone only the last record
    tells."""
    least = "" if recording.live else "at least "
    return f"{least}{seconds(recording.until - since)}"


def short(site: str) -> str:
    """A site without its folders."""
    return os.path.basename(site)
