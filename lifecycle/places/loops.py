"""The notifier: how an event loop learns that a ticket waits in its release queue.

**The problem.** A ticket arrives by a weakref callback that is a C method, since no Python code may run
between death and ticket. So nothing of ours runs at that moment that could call the loop, and a loop that
looks from time to time is late, or busy.

**The idea.** `SimpleQueue.put` is such a C method too, and it wakes a thread that waits in `get`. A queue
with a loop has its tickets put into such an inbox, and one thread of the queue's own, which signals never
interrupt, moves them on to the mailbox and has the loop take a turn. Until the loop has answered it does not
listen, so that a burst rings once.

**What is guaranteed.** A ticket is in the inbox or in the mailbox (it is moved in C, in one step), and a
drain looks into both. So the notifier is for promptness only: without it, in a forked child or where no
thread starts any more, a queue is drained like any other. A turn that the loop has not taken after
`PATIENCE` seconds is posted again, with back-off. While nothing falls due nothing runs.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime
from lifecycle._core.waiting import Inbox
from lifecycle.errors import text_of

if TYPE_CHECKING:
    from lifecycle.places.queues import ReleaseQueue

PATIENCE = 1.0
"""Seconds after which a turn that the loop has not taken is posted again; doubled each time."""
LONGEST_PATIENCE = 60.0
TURN_TIME = 0.005
"""Seconds after which a turn gives the loop back, to go on in the next one."""
TURN_STEPS = 8
"""Tickets between two looks at the clock."""


class LoopNotifier:
    """Calls the loop of one `ReleaseQueue`. Knows the queue weakly: its thread ends with it.

    Parameters
    ----------
    queue:
        The queue whose owner is to be called.
    post:
        ``post(fn)`` has the loop call ``fn()`` soon; callable on any thread.
    """

    def __init__(self, queue: ReleaseQueue, post: Callable[[Callable[[], None]], object]) -> None:
        self.mailbox: deque[Any] = deque()
        inbox: runtime.SimpleQueue[Any] = runtime.SimpleQueue()
        self.put: Callable[..., None] = inbox.put
        self.problem: str = ""
        self.ringing: bool = False  # the loop was called, or is about to be
        self._inbox = inbox
        self._waits = iter(inbox.get, self)
        self._takes = iter(inbox.get_nowait, self)
        self._answered: Inbox[None] = Inbox()
        self._post = post
        self._queue = weakref.ref(queue, inbox.put)  # its death is the last thing that arrives
        self._thread = runtime.new_thread(self._listen, f"lifecycle-notifier-{queue.name}")

    def start(self) -> None:
        """Start the thread, or another one where it has died: exceptions that other threads raised in it
        ended it. Where none starts any more, the queue does without."""
        if self._thread.ident is not None:
            if not runtime.has_ended(self._thread):
                return
            self._thread = runtime.new_thread(self._listen, self._thread.name)
        try:
            runtime.begin(self._thread)
        except RuntimeError as error:
            self.problem = text_of(error)

    def __len__(self) -> int:
        """Tickets that are not in the mailbox yet."""
        return self._inbox.qsize()

    def hand_over(self) -> None:
        """Move what has arrived to the mailbox. Callable on any thread; an interrupt falls before or behind
        it.

        The thread waits at the inbox and sees nothing of what was moved: whoever leaves some in the mailbox
        wakes it, by ``put(None)``, unless it is `ringing`.
        """
        if self._inbox.qsize():
            try:
                self.mailbox.extend(self._takes)
            except runtime.Empty:
                return

    def turn(self) -> None:
        """What the loop calls: run what waits, for `TURN_TIME` at most, and have another turn if that was not
        all. While another thread collects garbage the notifier's thread waits for the end of that, in place
        of the loop."""
        queue = self._queue()
        if queue is None:
            return
        until = runtime.monotonic() + TURN_TIME
        goes_on = True
        try:
            while goes_on and queue.backlog:
                goes_on = queue._turn(TURN_STEPS)
                if runtime.monotonic() >= until:
                    break
        finally:
            if not goes_on or not queue.backlog or not self._call():
                self._answered.put(None)

    def _call(self) -> bool:
        """Post a turn; False where the loop takes none, since it is closed."""
        try:
            self._post(self.turn)
        except Exception as error:
            self.problem = text_of(error)
            return False
        self.problem = ""
        return True

    def _listen(self) -> None:
        """The thread: move a ticket on as soon as one is there, and ring. It goes on whatever another thread
        raises in it: a ticket is moved in one step."""
        while self._queue() is not None:
            try:
                self._listen_and_ring()
            except BaseException as error:
                self.ringing = False
                self.problem = text_of(error)
                self._inbox.put(None)  # what was moved already is to be rung for

    def _listen_and_ring(self) -> None:
        while self._queue() is not None:
            self.mailbox.extend(itertools.islice(self._waits, 1))
            rung = True
            while rung and self._backlog():  # asked again once it is noted that no thread rings
                self.ringing = True
                rung = self._ring()
                self.ringing = False

    def _ring(self) -> bool:
        """Post a turn, again and again, until the loop has taken it and nothing waits; False where the loop
        takes none."""
        patience = PATIENCE
        while self._backlog():
            while len(self._answered):
                self._answered.get(0)
            runtime.await_collection()
            if not self._call():
                return False
            try:
                self._answered.get(patience)
                patience = PATIENCE
            except runtime.Empty:
                patience = min(2 * patience, LONGEST_PATIENCE)
        return True

    def _backlog(self) -> int:
        queue = self._queue()
        return 0 if queue is None else queue.backlog
