"""What is in flight, and the sums."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import attrs
import numpy as np

from examples.gl_camera.source import Picture
from lifecycle import SafetyManager, Timeline


@attrs.define
class Sums:
    """What happened in a run."""

    frames: int = 0
    torn: int = 0
    contexts: int = 1
    added: int = 0
    removed: int = 0
    orphaned: int = 0
    late: int = 0
    """Releases of objects of a lost context that came after it was made again."""
    waits: int = 0
    """How often every slot was in use by the device."""

    def compare(self, made: Picture, given: Picture, out: Path | None) -> None:
        """Count a picture that is not the frame which it was made of, and keep the first of these."""
        self.frames += 1
        if not np.array_equal(made[..., :3], given[..., :3]):
            self.torn += 1
            if self.torn == 1 and out is not None:
                save(made, out)


def save(picture: Picture, path: Path) -> None:
    """Write a PNG, where Pillow is there."""
    try:
        from PIL import Image
    except ImportError:
        print("no Pillow: the torn picture is not saved")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture[..., :3])).save(path)
    print(f"the first torn picture: {path}")


def show_in_flight(manager: SafetyManager, timeline: Timeline, when: str) -> None:
    """A table of what lives, and of what the device has."""
    infos = [info for info in manager.objects() if info.state in ("valid", "closing", "due", "releasing")]
    used = {record.id for record in timeline.used()}
    table = Counter((info.type_name, str(info.state), info.id in used) for info in infos)
    print(f"-- {when}: {timeline.in_flight} submission(s) in flight --")
    print(f"   {'type':<28}{'state':<12}{'in flight':<11}{'count':>5}")
    for (name, state, flying), count in sorted(table.items()):
        print(f"   {name:<28}{state:<12}{'yes' if flying else 'no':<11}{count:>5}")


def show_sums(sums: Sums, manager: SafetyManager) -> bool:
    """The last lines; whether nothing was torn and nothing is left."""
    print(
        f"{sums.frames} pictures, {sums.torn} torn; {sums.waits} waits for a slot; "
        f"{sums.added} processors added, {sums.removed} removed"
    )
    print(
        f"{sums.contexts} context(s); {sums.orphaned} objects went with a lost one, {sums.late} late "
        "releases, none of which hit a new object"
    )
    closed = manager.close()
    print(f"released {closed.released} at the end, left behind: {len(closed.leaked)}")
    return closed.ok
