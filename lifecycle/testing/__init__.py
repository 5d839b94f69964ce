"""For tests of programs that use the library, and of the library itself.

Two halves: `assert_no_leaks`, which fails what leaves objects, leases, tickets or threads behind and says
where each was made (the pytest plugin `lifecycle.testing.plugin` does it around every test); and adversaries,
which make happen at every moment what a process may do to a program at the worst moment. A storm finds a race
by luck; these go through the places one by one.

- `every_line` runs an action (the collector, another call) before every line of code, `every_point` wherever
  CPython may run a signal handler.
- `each_interrupt` raises at the first, the second, the third … point at which CPython may run a signal
  handler; `Signals` is Ctrl-C for real, thousands of times a second.
- `Standing` is a thread that stands still before a named line until it is let go; `at_once` starts threads
  from one moment on; `switching` changes threads as often as the interpreter can; `interleavings` runs every
  order that a few operations may take.
- `FaultPlan` says which call goes wrong, and how.
- `check_transitions` looks up every change of an object's state in the table of states.
- `LyingClock` lets the library's time jump and stand.

Nothing here is imported by the rest of the library.

- `leaks`, `notes`: what a test left behind, and where that was made
- `gpu`: what it left on the GPU, with OpenGL and wgpu as witnesses
- `gl_names`: where that was made, if by PyOpenGL or moderngl
- `plugin`: the same around every test
- `lines`, `interrupts`, `sequencer`, `interleavings`: the adversaries, one each
- `faults`: which call goes wrong, and how
- `transitions`: whether objects live by the table of states
- `clock`: a time that jumps and stands
- `where`: which code an adversary works on
"""

from lifecycle.testing.clock import LyingClock
from lifecycle.testing.faults import Fault, FaultPlan, fails, hangs, takes
from lifecycle.testing.gpu import GPULeaksFound, GPULeftovers, assert_no_gpu_leaks
from lifecycle.testing.interleavings import Interleaving, Outcome, interleavings
from lifecycle.testing.interrupts import (
    Interrupt,
    Signals,
    Struck,
    each_interrupt,
    every_point,
    run_interrupted,
)
from lifecycle.testing.leaks import LeaksFound, Leftovers, assert_no_leaks
from lifecycle.testing.lines import EveryLine, every_line
from lifecycle.testing.sequencer import Standing, at_once, line_of, switching
from lifecycle.testing.transitions import check_transitions
from lifecycle.testing.where import code_of, library

__all__ = [
    "EveryLine",
    "Fault",
    "FaultPlan",
    "GPULeaksFound",
    "GPULeftovers",
    "Interleaving",
    "Interrupt",
    "LeaksFound",
    "Leftovers",
    "LyingClock",
    "Outcome",
    "Signals",
    "Standing",
    "Struck",
    "assert_no_gpu_leaks",
    "assert_no_leaks",
    "at_once",
    "check_transitions",
    "code_of",
    "each_interrupt",
    "every_line",
    "every_point",
    "fails",
    "hangs",
    "interleavings",
    "library",
    "line_of",
    "run_interrupted",
    "switching",
    "takes",
]
