"""Which objects a crash points at, by what its process wrote down.

A *suspect* is an object that the file connects with the crash, with the sentence that says how. Evidence, the
strongest first:

1. ``address``: the fault's address lies in the memory of the object, as registered (``native=`` and
   ``size=``) or as seen through a view. Of several objects that had that memory it is the latest.
2. ``misuse``: something certain was done wrong with it on the thread that crashed, or something doubtful was
   the last that this thread did.
3. ``releasing``: its release was running on the thread that crashed.
4. ``beside``: the address is less than a page from its memory.
5. ``running``: its release was running on another thread.

Nothing follows from an absence across a gap (R4): a release without an end is running only if no number is
missing behind its begin, or if its thread wrote nothing afterwards. A use is over when a release of its
object has begun (I2), whatever the table says.
"""

from __future__ import annotations

import os
import re
from typing import Any

import attrs

from lifecycle.recorder import layout
from lifecycle.recorder.reader import Entry, Frame, Recording, Use, frames_of
from lifecycle.recorder.report import dict_of, lasting, seconds, short, text_of

PAGE = 4096
MOST_SUSPECTS = 10
LAST = 12
"""Records that are shown as the last."""
RULES = ("address", "misuse", "releasing", "beside", "running")


@attrs.define
class Life:
    """What the file says of one object."""

    object: int
    type: str = ""
    name: str = ""
    registered: Entry | None = None
    shut: Entry | None = None
    begun: Entry | None = None
    ended: Entry | None = None
    again: Entry | None = None
    misuse: Entry | None = None
    ranges: list[tuple[int, int, Entry]] = attrs.field(factory=list)
    """Address, bytes, and the record that says so."""
    accessible: Entry | None = None
    guarded: Entry | None = None
    use: Use | None = None
    """The last one."""

    def __str__(self) -> str:
        name = f' "{self.name}"' if self.name else ""
        return f"{self.type or 'object'} {self.object}{name}"


@attrs.frozen
class Suspect:
    """An object that the file connects with the crash."""

    life: Life
    rule: str
    """One of `RULES`."""
    why: str
    """The sentence that says how."""
    site: str
    """Where that was done, ``file:line``, empty where it is not known."""
    other_site: str
    """Where the object was registered."""
    thread: int
    """Native id of the thread that did it."""
    before_end: float | None
    """Seconds from then to the end."""


@attrs.frozen(kw_only=True)
class Report:
    """What `analyse` has found. ``str(report)`` is for people, `as_dict` for programs."""

    recording: Recording
    signal: str
    """What ended the process, in faulthandler's words; empty where it did not say."""
    thread: int
    """Native id of the thread that crashed, 0 where it is not known."""
    frames: tuple[Frame, ...]
    suspects: tuple[Suspect, ...]
    in_use: tuple[Use, ...]
    releasing: tuple[Life, ...]
    last: tuple[Entry, ...]
    lives: dict[int, Life]
    unknown: tuple[str, ...]

    @property
    def crashed(self) -> bool:
        """Return True if the process is gone and did not say that it ended."""
        return not self.recording.clean and not self.recording.live

    @property
    def frame(self) -> Frame | None:
        """The innermost line that is the program's own."""
        for frame in self.frames:
            if not _LIBRARY.search(frame.file):
                return frame
        return self.frames[0] if self.frames else None

    def __str__(self) -> str:
        return text_of(self)

    def as_dict(self) -> dict[str, Any]:
        """The report as data that JSON can hold: times in seconds, addresses as text, None for what is not
        known."""
        return dict_of(self)


_LIBRARY = re.compile(r"/lib(?:64)?/python3[^/]*/|^<frozen |" + re.escape(os.sep.join(("", "lifecycle", ""))))


def analyse(recording: Recording) -> Report:
    """Find what of a recording is connected with the end of its process."""
    lives = lives_of(recording)
    signal, ident, frames = frames_of(recording.fault_text)
    thread = _crashed(recording, ident)
    running = _running(recording, lives)
    in_use = _in_use(recording, lives)
    suspects: list[Suspect] = []
    if not recording.live and not recording.clean:
        suspects = _suspects(recording, lives, thread, running)
    return Report(
        recording=recording,
        signal=signal,
        thread=thread,
        frames=frames,
        suspects=tuple(suspects[:MOST_SUSPECTS]),
        in_use=in_use,
        releasing=tuple(running),
        last=recording.entries[-LAST:],
        lives=lives,
        unknown=tuple(_unknown(recording, lives, in_use, running)),
    )


def lives_of(recording: Recording) -> dict[int, Life]:
    """Every object that the file knows, by its id."""
    lives: dict[int, Life] = {}
    for entry in recording.entries:
        if not entry.object:
            continue
        life = lives.get(entry.object)
        if life is None:
            life = lives[entry.object] = Life(entry.object)
        life.type = life.type or entry.type
        _note(life, entry)
    for use in recording.uses:
        life = lives.get(use.object)
        if life is None:
            life = lives[use.object] = Life(use.object, use.type)
        life.use = use
    return lives


def _note(life: Life, entry: Entry) -> None:
    operation = entry.operation
    if operation == layout.REGISTER:
        life.registered = entry
        life.name = entry.name
        if entry.a >= PAGE and entry.b:
            life.ranges.append((entry.a, entry.b, entry))
    elif operation == layout.SHUT:
        life.shut = life.shut or entry
    elif operation == layout.BEGINS:
        life.begun = entry
    elif operation == layout.ENDS:
        life.ended = entry
    elif operation == layout.AGAIN:
        life.again = entry
    elif operation == layout.MISUSE:
        life.misuse = entry
    elif operation == layout.ACCESSIBLE:
        life.accessible = entry
    elif operation == layout.GUARDED:
        life.guarded = entry
        life.ranges.append((entry.a, entry.b, entry))
    elif operation == layout.VIEW and entry.b:
        life.ranges.append((entry.a, entry.b, entry))


def _crashed(recording: Recording, ident: int) -> int:
    """The thread that crashed, by the kernel's entry or by faulthandler's."""
    if recording.fault is not None:
        for thread in reversed(recording.threads):
            if thread.stack == recording.fault.stack + 1:
                return thread.native
    if ident:
        for thread in reversed(recording.threads):
            if thread.ident == ident:
                return thread.native
    return 0


def _running(recording: Recording, lives: dict[int, Life]) -> list[Life]:
    """The objects whose release had begun and not ended."""
    last_by_thread: dict[int, int] = {}
    for entry in recording.entries:
        last_by_thread[entry.thread] = entry.number
    last_missing = recording.missing[-1] if recording.missing else 0
    found = []
    for life in lives.values():
        begun = life.begun
        if begun is None:
            continue
        over = [one.number for one in (life.ended, life.again) if one is not None]
        if over and max(over) > begun.number:
            continue
        if last_missing > begun.number and last_by_thread[begun.thread] > begun.number:
            continue
        found.append(life)
    return sorted(found, key=lambda life: life.begun.number if life.begun else 0)


def _in_use(recording: Recording, lives: dict[int, Life]) -> tuple[Use, ...]:
    return tuple(
        use
        for use in recording.uses
        if not use.ended and ((life := lives.get(use.object)) is None or life.begun is None)
    )


# -- suspects ------------------------------------------------------------------------------------------------


def _suspects(
    recording: Recording, lives: dict[int, Life], thread: int, running: list[Life]
) -> list[Suspect]:
    found: list[Suspect] = []
    address = recording.fault.address if recording.fault is not None else None
    if address is not None:
        inside = _having(lives, address, 0)
        if inside is not None:
            found.append(_by_address(recording, *inside, address))
        beside = _having(lives, address, PAGE)
        if beside is not None and inside is None:
            found.append(_by_address(recording, *beside, address))
    misuses = [life for life in lives.values() if life.misuse is not None and life.misuse.thread == thread]
    for life in sorted(misuses, key=lambda life: -life.misuse.number if life.misuse else 0):
        assert life.misuse is not None
        why = f"{life.misuse.name or 'misused'} on the thread that crashed"
        found.append(_suspect(recording, life, "misuse", why, life.misuse))
    last = next((one for one in reversed(recording.entries) if one.thread == thread), None)
    if last is not None and last.operation == layout.RISK and not last.flag and last.object in lives:
        # Written before a call that did not come back.
        why = f"{last.name} was the last that is known of the thread that crashed"
        found.append(_suspect(recording, lives[last.object], "misuse", why, last))
    for life in running:
        assert life.begun is not None
        here = thread != 0 and life.begun.thread == thread
        closed = f", closed at {short(life.begun.site)}" if life.begun.site else ""
        why = (
            f"its release has been running on {recording.thread(life.begun.thread)} for "
            f"{lasting(recording, life.begun.time)}{closed}"
        )
        found.append(_suspect(recording, life, "releasing" if here else "running", why, life.begun))
    found.sort(key=lambda suspect: RULES.index(suspect.rule))
    known: set[int] = set()
    return [one for one in found if one.life.object not in known and not known.add(one.life.object)]  # type: ignore[func-returns-value]


def _having(lives: dict[int, Life], address: int, around: int) -> tuple[Life, int, int, Entry] | None:
    """The latest object whose memory has `address`, or lies less than `around` bytes from it."""
    best: tuple[Life, int, int, Entry] | None = None
    for life in lives.values():
        for start, size, entry in life.ranges:
            if not start - around <= address < start + size + around:
                continue
            if entry.operation == layout.GUARDED and life.accessible is not None:
                continue
            if best is None or entry.number > best[3].number:
                best = (life, start, size, entry)
    return best


def _by_address(
    recording: Recording, life: Life, start: int, size: int, entry: Entry, address: int
) -> Suspect:
    at = address - start
    if at < 0:
        where, rule = f"just outside its memory, {-at:,} bytes before it", "beside"
    elif at >= size:
        where, rule = f"just outside its memory, {at - size:,} bytes behind it", "beside"
    else:
        where, rule = f"byte {at:,} of its {size:,}", "address"
    end = life.ended
    if end is not None and end.flag != layout.OUTCOMES.index("stuck"):
        how = layout.OUTCOMES[end.flag] if end.flag < len(layout.OUTCOMES) else "ended"
        line = (life.begun.site if life.begun is not None else "") or end.site
        at_line = f" at {short(line)}" if line else ""
        how = (
            f"{how or 'ended'} on {recording.thread(end.thread)}{at_line}, "
            f"{seconds(recording.end - end.time)} before the last record"
        )
        if life.guarded is not None:
            how = f"inaccessible since it was {how}"
        deed: Entry = end
    elif life.begun is not None:
        how = f"its release was running on {recording.thread(life.begun.thread)}"
        deed = life.begun
    elif life.shut is not None:
        how = "it was closed, and held still"
        deed = life.shut
    else:
        how = "it was not released: something else has unmapped or freed that memory"
        deed = entry
    site = life.begun.site if life.begun is not None else deed.site or entry.site
    return _suspect(recording, life, rule, f"{where}; {how}", deed, site)


def _suspect(
    recording: Recording, life: Life, rule: str, why: str, deed: Entry, site: str | None = None
) -> Suspect:
    registered = life.registered.site if life.registered is not None else ""
    return Suspect(
        life,
        rule,
        why,
        deed.site if site is None else site,
        registered,
        deed.thread,
        max(0.0, recording.end - deed.time),
    )


def _unknown(
    recording: Recording, lives: dict[int, Life], in_use: tuple[Use, ...], running: list[Life]
) -> list[str]:
    found = list(recording.problems)
    if recording.overwritten:
        nameless = {use.object for use in in_use} | {life.object for life in running}
        count = sum(lives[id].registered is None for id in nameless)
        tail = f"; the names of {count} objects in use went with them" if count else ""
        found.append(f"{recording.overwritten:,} older records were overwritten{tail}")
    if recording.missing:
        found.append(
            f"{len(recording.missing):,} records were claimed and not written, or overwritten late: what "
            "they said is not known"
        )
    if recording.torn:
        found.append(f"{recording.torn:,} records are torn")
    if recording.left_out_uses:
        found.append(f"{recording.left_out_uses:,} leases found no room in the table (uses=)")
    if recording.left_out_texts:
        found.append(f"{recording.left_out_texts:,} names and sites found no room in the table of texts")
    if not recording.live and not recording.clean and recording.fault_text.startswith("Fatal"):
        if recording.no_stacks:
            found.append("the fault's address: this platform's signal frames are not known to the recorder")
        elif recording.fault is None:
            found.append("the fault's address: the kernel left none on this thread's signal stack")
    if recording.text_elsewhere and not recording.clean and not recording.live:
        found.append(
            "faulthandler was enabled by the program: its text is where that had it written, and the address "
            "of a fault in the thread that enabled it is not known"
        )
    return found
