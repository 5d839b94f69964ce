"""Guards: clean-up as an object. What was begun is ended once, by the block, by a call, or as the last
reference goes.

**The problem.** ``try/finally`` ends what one block began. What is begun here and ended elsewhere, or begun
in a number that only the program knows, needs an object, and the ones at hand forget: `contextlib.ExitStack`
that is dropped drops its callbacks too, and of several failures it raises the last and loses others
(cpython#102201); an interrupt between ``__enter__`` and the note that it has to be undone leaves it done.

**The idea.** An action lies in a list until it is run, and *taking it out is the claim*: pop, then run. So it
runs once, on whatever threads and however often it is asked for; what nobody ran, ``__del__`` runs, with a
`ResourceWarning`.

**Guaranteed.** Each action runs at most once; and exactly once while the process lives, also when interrupts
strike in here: one that strikes in our own code while a stack unwinds is raised when the rest has run. An
action that was begun and interrupted counts as run. A forked child runs nothing of its parent's. Nothing runs
inside the collector: a guard that dies there is run on a thread of its own. No lock is taken, so every call
may be made from anywhere.

**Relied on.** `list.pop` and `list.append` are indivisible. ``for x in iter(list.pop, …)`` takes and stores
in one step, between which CPython looks for no signal; a ``pop()`` whose result is stored by the next
instruction would lose it there.

- `guard`: one action
- `shared`: one action with several shares
- `stack`: any number of them
- `errors`: what comes out when some of them fail
- `action`: how an action is claimed and run once
"""

from lifecycle.guards.guard import CleanupGuard
from lifecycle.guards.shared import SharedCleanupGuard
from lifecycle.guards.stack import CleanupStack

__all__ = ["CleanupGuard", "CleanupStack", "SharedCleanupGuard"]
