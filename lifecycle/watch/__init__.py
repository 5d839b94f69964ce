"""Classes of other libraries under watch: what is used after its close, and what is never closed.

`lifecycle run --watch module:Class.close script.py` watches an unmodified program; `watch` does it from
inside. Nothing is made safe and nothing is changed: the program's results, exceptions, tracebacks and
identities stay its own (R9). What cannot be watched without touching them is not watched, and that is said.

- `targets`: `watch`, and what it is asked for
- `gstreamer`: ``--gst``: what programs do with GStreamer
- `mappings`: of GStreamer's buffers
- `gpu`: ``--gl`` and ``--wgpu``: objects of PyOpenGL, moderngl and wgpu
- `methods`: classes that take other attributes
- `factories`: classes of which a factory makes a subclass
- `monitoring`: immutable classes, by `sys.monitoring`
- `imports`: what is to be done when a module is imported
- `patches`: functions that something is done around
- `journal`: what is known of each object, and what is told
- `sites`: the line that a user knows
- `unseen`: a call between two others, without a trace in tracebacks
- `beginning`: what a program that `lifecycle run` starts does first
- `errors`: a class that is named wrongly
"""

from lifecycle.watch.errors import WatchError
from lifecycle.watch.journal import Told
from lifecycle.watch.targets import Watched, told, watch

__all__ = ["Told", "WatchError", "Watched", "told", "watch"]
