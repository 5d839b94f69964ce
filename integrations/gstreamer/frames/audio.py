"""Sound: raw audio as an array of frames × channels, whichever way its samples lie.

GStreamer has two layouts. *Interleaved*: the samples of one moment side by side. *Non-interleaved* (planar):
one channel after the other, and where each begins a buffer's audio meta says; without one nobody can tell,
and GStreamer's own functions refuse it. Both become frames × channels; the second with strides that run the
other way round, if its channels lie at equal steps.

The dtypes are those of the format's name: ``S16LE`` is ``<i2``, ``F32LE`` ``<f4``, ``U8`` ``u1``,
``S24_32LE`` (24 bits in 32) ``<i4``. Formats of 3 bytes a sample (``S24LE``) have none.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, Final

import attrs

from lifecycle.integrations.gstreamer._native import audio_meta, int_field, np, text_field
from lifecycle.integrations.gstreamer.frames.planes import Plane

__all__ = ["Sound", "sound_of"]

_FORMAT: Final = re.compile(r"([SUF])(\d+)(?:_(\d+))?(LE|BE)?")
_KINDS: Final = {"S": "i", "U": "u", "F": "f"}
CONVERT: Final = (
    "use frame.data() for its bytes, or put «audioconvert ! audio/x-raw,format=F32LE,layout=interleaved» "
    "before the sink"
)


@attrs.frozen
class Sound:
    """What audio caps say. `problem` names why their samples are no ndarray."""

    dtype: np.dtype[Any] | None
    rate: int
    channels: int
    interleaved: bool
    problem: str

    def planes(self, buffer: int, size: int) -> tuple[Plane | None, tuple[Plane, ...], str]:
        """For a buffer of `size` bytes: frames × channels, the planes (one, or one for each channel), and why
        there are none."""
        if self.dtype is None:
            return None, (), self.problem
        item = self.dtype.itemsize
        meta = audio_meta(buffer)
        if self.interleaved:
            step = item * self.channels
            count = size // step if meta is None else meta.samples
            if meta is None and count * step != size:
                return (
                    None,
                    (),
                    f"its {size} bytes are no whole number of frames of {step} bytes, so the buffer is "
                    "truncated or the caps are not its own; use data() for the bytes that are there",
                )
            start = 0 if meta is None or not meta.offsets else meta.offsets[0]
            whole = Plane((count, self.channels), self.dtype, start, (step, item))
            return whole, (whole,), ""
        if meta is None or not meta.offsets:
            return (
                None,
                (),
                "its channels lie one after the other and the buffer has no audio meta, so it is not "
                f"known where each begins; {CONVERT}",
            )
        starts = [meta.offsets[channel] for channel in range(self.channels)]
        planes = tuple(Plane((meta.samples,), self.dtype, start, (item,)) for start in starts)
        steps = {after - before for before, after in itertools.pairwise(starts)}
        if len(steps) > 1:
            return (
                None,
                planes,
                f"its channels do not lie at equal steps (they begin at {starts}), which one ndarray cannot "
                f"express; use frame.planes() for one array a channel, {CONVERT}",
            )
        step = steps.pop() if steps else item * meta.samples
        return Plane((meta.samples, self.channels), self.dtype, starts[0], (item, step)), planes, ""


def sound_of(caps: Any) -> Sound:
    """What raw audio caps (``audio/x-raw``, fixed) say."""
    name = text_field(caps, "format")
    channels = int_field(caps, "channels")
    interleaved = text_field(caps, "layout") != "non-interleaved"
    dtype = None
    problem = ""
    found = _FORMAT.fullmatch(name)
    bits = int(found[3] or found[2]) if found else 0
    if found is None or channels < 1:
        problem = f"this library does not know its format «{name}» of {channels} channels; {CONVERT}"
    elif bits not in (8, 16, 32, 64):
        problem = f"its samples have {bits} bits, which no dtype has; {CONVERT}"
    else:
        dtype = np.dtype(f"{'>' if found[4] == 'BE' else '<'}{_KINDS[found[1]]}{bits // 8}")
    return Sound(dtype, int_field(caps, "rate"), channels, interleaved, problem)
