"""Signals that end the process, and the managers that are closed before: `SafetyManager.close_on`.

**The problem.** SIGTERM runs no exit hook: what is being recorded is lost. A handler in Python is run by the
main thread alone, and only once that has come out of its call into C, which may take seconds.

**The idea.** CPython's own handler, which is C, writes the number of each signal to a descriptor. A thread
reads it, and another closes the managers, the latest added first. Then what was there before has the signal:
it is sent again, and the process ends as it would have without us.

**What is relied on.** One thread reads; it alone counts. A signal is heard by its byte, and by the Python
handler, which writes a byte of its own: where an event loop has the descriptor, that is all that is heard. So
a signal has come as often as the more frequent of both says, and the second one cuts the closing short.

In a forked child what was there before is put back: its parent's managers are not its own.
"""

from __future__ import annotations

import _thread
import ctypes
import itertools
import os
import signal
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle.errors import LifecycleError

__all__ = ["close_on"]

HANDLED = 128
"""Added to a signal's number in the byte that its Python handler writes."""
NAMED = 8
"""Objects that are named when a second signal cuts the closing short."""

_next: Callable[[], int] = itertools.count(1).__next__


class _Signals:
    """The signals of this process at which something is closed."""

    def __init__(self) -> None:
        self.managers: dict[int, dict[int, weakref.ref[Any]]] = {}
        self.before: dict[int, Any] = {}
        """What handled a signal before us. Only the main thread writes it."""
        self.passed_on: dict[int, None] = {}
        """What has been closed for: who handled it before has it, now and from here on."""
        self.come: dict[int, None] = {}
        """What has come, and is to be passed on to who handled it before."""
        self.ears: tuple[socket.socket, socket.socket] | None = None
        self.thread: threading.Thread | None = None
        runtime.at_fork_in_child(self.after_fork)

    # -- on the main thread

    def add(self, manager: Any, numbers: tuple[int, ...]) -> Callable[[], None]:
        key = _next()
        self.listen()
        for number in numbers:
            now = signal.getsignal(number)
            if number not in self.before or (now != self.handle and not self.wanted(number)):
                # The second: what was taken back on another thread stayed, and has been replaced since.
                self.before[number] = now
            self.managers.setdefault(number, {})[key] = weakref.ref(manager)
            self.passed_on.pop(number, None)
            self.come.pop(number, None)
            try:
                signal.signal(number, self.handle)
            except (OSError, ValueError) as error:
                self.remove(key, numbers)
                raise LifecycleError(
                    f"{signal.Signals(number).name} cannot be handled by this process ({error}); "
                    "SIGTERM and SIGINT can"
                ) from None

        def remove() -> None:
            self.remove(key, numbers)

        return remove

    def remove(self, key: int, numbers: tuple[int, ...]) -> None:
        """Off the main thread the handler stays, and passes the signal on."""
        for number in numbers:
            self.managers.get(number, {}).pop(key, None)
            if number in self.before and not self.wanted(number) and runtime.on_main_thread():
                if signal.getsignal(number) == self.handle:
                    signal.signal(number, _restorable(self.before[number]))
                self.before.pop(number, None)
        if runtime.on_main_thread() and self.ears is not None and not self.before:
            # Other users of the wake-up descriptor, such as trio, complain if one is set already.
            theirs = signal.set_wakeup_fd(-1)
            if theirs not in (-1, self.ears[1].fileno()):
                signal.set_wakeup_fd(theirs)

    def wanted(self, number: int) -> bool:
        """Return True if an open manager is to be closed at this signal, or is being closed because of it."""
        return number in self.come or any(not manager.closed for manager in self.living(number))

    def listen(self) -> None:
        """Have a thread that reads what the signals write."""
        if self.ears is None:
            ears = socket.socketpair()
            ears[1].setblocking(False)
            self.ears = ears
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(
                target=self.read, args=(self.ears[0],), name="lifecycle-signals", daemon=True
            )
            self.thread.start()
        ours = self.ears[1].fileno()
        theirs = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if theirs not in (-1, ours):
            # An event loop's: it wakes the main thread, which runs the Python handler at once.
            signal.set_wakeup_fd(theirs)

    def handle(self, number: int, frame: Any) -> None:
        """The handler in Python."""
        try:
            if number in self.passed_on:
                before = self.before.get(number)
                if callable(before):
                    before(number, frame)
            elif self.ears is not None:
                self.ears[1].send(bytes((HANDLED + number,)))
        except OSError:
            # Full: the thread has plenty to read.
            return

    # -- on the thread

    def read(self, ear: socket.socket) -> None:
        """Begin the closing at the first signal, and cut it short at the second."""
        counts: dict[int, int] = {}
        came = 0
        while True:
            for byte in ear.recv(4096):
                number = byte % HANDLED
                if number not in self.before or number in self.passed_on:
                    continue
                counts[byte] = counts.get(byte, 0) + 1
                numbers = {one % HANDLED for one in counts}
                now = sum(max(counts.get(one, 0), counts.get(one + HANDLED, 0)) for one in numbers)
                if now > came:
                    came = now
                    if came == 1:
                        self.come[number] = None
                        work = threading.Thread(
                            target=self.close, args=(number,), name="lifecycle-signal", daemon=True
                        )
                        work.start()
                    elif came == 2:
                        self.cut_short(number)

    def living(self, number: int) -> list[Any]:
        entries = sorted(runtime.snapshot(self.managers.get(number, {}).items()), reverse=True)
        found = [ref() for _, ref in entries]
        return [manager for manager in found if manager is not None]

    def close(self, number: int) -> None:
        """Close the managers, and pass the signal on."""
        try:
            for manager in self.living(number):
                try:
                    report = manager.close()
                    if not report.ok:
                        manager._ending.tell_of(report)
                except BaseException:
                    runtime.complain()
        finally:
            self.pass_on(number, closed=True)

    def cut_short(self, number: int) -> None:
        """Say what is not closed yet, and pass the signal on."""
        left = [str(info) for manager in self.living(number) for info in manager.objects()]
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        said = (
            f"lifecycle: {signal.Signals(number).name} came again while managers were being closed, which is "
            f"cut short; left: {'; '.join(left[:NAMED]) or 'nothing'}{more}\n"
        )
        os.write(2, said.encode(errors="replace"))
        self.pass_on(number)

    def pass_on(self, number: int, closed: bool = False) -> None:
        """What was there before us has the signal. `closed`: all that was to be closed is."""
        before = self.before.get(number)
        self.passed_on[number] = None
        if callable(before):
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                _thread.interrupt_main(signal.Signals(number))
        elif before in (signal.SIG_DFL, None):
            if os.name == "posix":
                # `signal.signal` is the main thread's, which may be in C for long.
                ctypes.CDLL(None).signal(number, None)
            if closed:
                for tell in runtime.before_signal:
                    tell(number)
            os.kill(os.getpid(), number)

    def after_fork(self) -> None:
        """In the child: its parent's managers are not its own, nor is the descriptor."""
        if self.ears is None:
            return
        ours = self.ears[1].fileno()
        theirs = signal.set_wakeup_fd(-1)
        if theirs not in (-1, ours):
            signal.set_wakeup_fd(theirs)
        for number, before in list(self.before.items()):
            if signal.getsignal(number) == self.handle:
                signal.signal(number, _restorable(before))
        self.managers, self.before, self.passed_on, self.come = {}, {}, {}, {}
        ears, self.ears, self.thread = self.ears, None, None
        for ear in ears:
            ear.close()


def _restorable(handler: Any) -> Any:
    """A handler that C has installed, which Python knows as None, cannot be put back."""
    return signal.SIG_DFL if handler is None else handler


_signals = _Signals()


def close_on(manager: Any, numbers: tuple[int, ...]) -> Callable[[], None]:
    """What `SafetyManager.close_on` does."""
    if not numbers:
        raise LifecycleError("close_on() takes one signal at least: manager.close_on(signal.SIGTERM)")
    checked = []
    for number in numbers:
        try:
            checked.append(int(signal.Signals(number)))
        except (ValueError, TypeError):
            raise LifecycleError(f"close_on() takes signals such as signal.SIGTERM, not {number!r}") from None
    if not runtime.on_main_thread():
        raise LifecycleError(
            "close_on() is called on the main thread: Python lets no other say who handles a signal"
        )
    return _signals.add(manager, tuple(checked))
