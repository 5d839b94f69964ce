"""The flight recorder: what a process does with its objects, in a file that outlives it.

The thread that acts writes, in place, into a mapped file, and the kernel itself writes the last entry. After
a crash ``lifecycle postmortem FILE`` reads it (docs/postmortem.md). While no recorder runs nothing of this
package is imported, and nothing costs anything.

- `recorder`: `start`, and what belongs to one process
- `hooks`: what the core does, written down
- `writer`: the mapped file
- `stacks`: alternate signal stacks in it
- `files`: where files are, and what became of earlier runs
- `reader`: a file as data
- `frames`: what the kernel left on a signal stack
- `postmortem`, `report`: which objects a crash points at; that as text and JSON
- `page`: a recording as one HTML page
- `summary`: a process as its file shows it now
- `layout`: the file's format, which writer and reader share
- `errors`: what goes wrong with a file
"""

from lifecycle.recorder.errors import RecorderError, RecordingError
from lifecycle.recorder.files import PreviousRun, previous_runs
from lifecycle.recorder.reader import Recording, read
from lifecycle.recorder.recorder import Recorder, RecorderStats, active, start

__all__ = [
    "PreviousRun",
    "Recorder",
    "RecorderError",
    "RecorderStats",
    "Recording",
    "RecordingError",
    "active",
    "previous_runs",
    "read",
    "start",
]
