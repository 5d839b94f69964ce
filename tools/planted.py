"""The bugs that `tools.mutants` plants: what is changed, what is wrong then, and the tests that are to notice."""

from __future__ import annotations

import attrs


@attrs.frozen
class Mutant:
    """One bug. Each edit is (file in lifecycle/, the text there, the text instead)."""

    name: str
    wrong: str
    invariant: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    kind: str = ""
    """Which of `KINDS` it is of, if of one of them."""


KINDS = (
    "a ticket lost",
    "an interrupt swallowed",
    "two answers",
    "a wake-up lost",
    "a hook that holds its owner",
    "a false alarm",
    "a race with policies",
    "one bad input breaking the rest",
    "growth",
    "a silent end",
    "running twice",
)
"""Kinds of faults that people found by reading. Each has a mutant, so that tests are known to find the next of its kind."""


def core(*names: str) -> tuple[str, ...]:
    """Test files of the core, ``name`` or ``name::test``."""
    return tuple(
        f"tests/core/test_{name.replace('::', '.py::')}{'' if '::' in name else '.py'}" for name in names
    )


def anywhere(*tests: str) -> tuple[str, ...]:
    """Tests that try adversaries in the middle of every public operation."""
    return tuple(f"tests/adversaries/test_every_operation.py::{test}" for test in tests)


MUTANTS = (
    # -- the door
    Mutant(
        "the object stays open",
        "close() does not close the object to new accesses",
        "I1",
        (("_core/record.py", "        cell.pin = None\n", ""),),
        core("shares", "manager"),
    ),
    Mutant(
        "a lease keeps the object open",
        "access by id succeeds after the last close, as long as there is a lease",
        "I1",
        (
            (
                "_core/leases.py",
                '__slots__ = ("_pin", "_record", "_thread")',
                '__slots__ = ("_cell", "_pin", "_record", "_thread")',
            ),
            (
                "_core/handle.py",
                "            lease._pin = pin\n",
                "            lease._pin = pin\n            lease._cell = self._cell\n",
            ),
        ),
        core("leases_and_views"),
    ),
    Mutant(
        "the last share does not close",
        "giving back a share never finds that it was the last",
        "I3",
        (("_core/shares.py", "    return not tokens\n", "    return False\n"),),
        core("interleavings::test_every_two_operations[share]"),
    ),
    Mutant(
        "any share closes",
        "closing one share closes the object for all",
        "I1",
        (
            ("_core/shares.py", "    return not tokens\n", "    return True\n"),
            (
                "_core/handle.py",
                "if tokens and record.cause is None:\n",
                "if not tokens and record.cause is None:\n",
            ),
        ),
        core("shares"),
    ),
    Mutant(
        "a share is not announced",
        "a share is made while the last other one closes: nothing closes the object, or both do",
        "I1",
        (
            ("_core/shares.py", "        tokens[announced] = None\n        if parent", "        if parent"),
            ("_core/shares.py", "        ours = tokens.pop(-token, 0) is None\n", "        ours = True\n"),
        ),
        core("interleavings::test_every_two_operations[share]", "shares"),
    ),
    Mutant(
        "an announced share keeps the object open",
        "a share that was announced and not made does not close the object that it kept open",
        "I3",
        (("_core/shares.py", "        if ours and not tokens:\n", "        if False:\n"),),
        core("interleavings::test_every_two_operations[share]"),
    ),
    # -- who holds
    Mutant(
        "a view holds nothing",
        "its memory is unmapped while it is read",
        "I2",
        (("_core/views.py", "        array.pin = pin\n", ""),),
        core("leases_and_views", "collector"),
    ),
    Mutant(
        "a child holds nothing",
        "a parent is released before its children",
        "I2",
        (
            ("_core/register.py", "        record.parent = parent\n", "        record.parent = None\n"),
            (
                "manager/manager.py",
                "            record.parent = parent_pin\n",
                "            record.parent = None\n",
            ),
        ),
        core("leases_and_views", "nesting"),
    ),
    Mutant(
        "a parent is never let go",
        "the end of a child does not give back its parent",
        "I3",
        (
            (
                "_core/release.py",
                "        _post_parent(record)\n    record.parent = None\n",
                "        _post_parent(record)\n",
            ),
        ),
        core("leases_and_views"),
    ),
    Mutant(
        "no root",
        "the core becomes garbage with its cycle, so the object is due before the last __del__ has run",
        "I2",
        (
            ("_core/register.py", "        registry.roots.add(core)", "        pass"),
            ("manager/manager.py", "            registry.roots.add(core)", "            pass"),
        ),
        core("collector"),
    ),
    Mutant(
        "the collector is not waited for",
        "a drain runs during a collection: an object that dies a second time is released too early",
        "I2",
        (
            (
                "_core/release.py",
                "    if collecting and not runtime.await_collection(patience):\n",
                "    if False:\n",
            ),
            (
                "_core/handle.py",
                " and record.extra is None and not collecting:\n",
                " and record.extra is None:\n",
            ),
        ),
        core("collector"),
    ),
    Mutant(
        "two collections taken for one",
        "a wait for the end of a collection gives up in the middle of a later one",
        "I2",
        (("_core/runtime.py", "    while collecting and _now.start is this:\n", "    while collecting:\n"),),
        core("collector"),
    ),
    Mutant(
        "a frame keeps the pin",
        "an exception that is kept keeps the object alive",
        "I3",
        (
            (
                "_core/handle.py",
                "            self = pin = lease = None  # type: ignore[assignment]  # noqa: F841 - K3\n            raise\n",
                "            raise\n",
            ),
        ),
        core("handle", "interrupts"),
    ),
    Mutant(
        "an ended lease holds on",
        "a lease holds its object after the end of its block",
        "I3",
        (
            (
                "_core/leases.py",
                "                self._leave()\n        finally:\n            self._pin = None\n",
                "                self._leave()\n        finally:\n            pass\n",
            ),
        ),
        core("leases_and_views"),
    ),
    Mutant(
        "the place keeps the object",
        "the last reference does not go when the release has run",
        "I4",
        (
            ("_core/release.py", "        record.obj = None  # the last", "        pass  # the last"),
            ("_core/handle.py", "record.release = record.obj = None\n", "record.release = None\n"),
        ),
        core("handle"),
    ),
    # -- once
    Mutant(
        "no claim",
        "two threads at the same moment both run the release",
        "I3",
        (
            (
                "_core/release.py",
                "        if claims.setdefault(id, me) is not me:\n            return False\n        phase = record.phase\n",
                "        claims.setdefault(id, me)\n        phase = record.phase\n",
            ),
        ),
        core("places", "interleavings", "storms"),
        kind="running twice",
    ),
    Mutant(
        "no claim in one piece",
        "close() of a plain object runs its release although a drain has begun it",
        "I3",
        (
            (
                "_core/handle.py",
                "if not tight and claims.setdefault(id, me := now) is me:",
                "if not tight and claims.setdefault(id, me := now) is not None:",
            ),
        ),
        core("storms::test_a_closer_leaves_the_release_to_a_drain_that_has_claimed_it"),
        kind="running twice",
    ),
    Mutant(
        "Python code in the death callback",
        "an interrupt in it loses the object for good",
        "I3",
        (
            (
                "_core/register.py",
                "Record(core, place.put)",
                "Record(core, lambda record, put=place.put: put(record))",
            ),
            (
                "manager/manager.py",
                "Record(core, place.put)",
                "Record(core, lambda record, put=place.put: put(record))",
            ),
        ),
        core("interrupts::test_what_is_called_as_an_object_dies_is_c_alone"),
    ),
    Mutant(
        "an interrupted drain loses its ticket",
        "an interrupt comes between taking a ticket and running it",
        "I3",
        (
            (
                "_core/place.py",
                "            mailbox.appendleft(record)\n            raise\n",
                "            raise\n",
            ),
        ),
        core("interrupts"),
        kind="a ticket lost",
    ),
    Mutant(
        "Python code in gc.callbacks",
        "a Ctrl-C that is pending when a collection begins or ends is printed and lost",
        "I3",
        (
            (
                "_core/runtime.py",
                "_callbacks = tuple(functools.partial(setattr, told) for told in (_now, _here, collecting))\n",
                "_callbacks = tuple(\n"
                "    lambda phase, info, told=told: setattr(told, phase, info) for told in (_now, _here, collecting)\n"
                ")\n",
            ),
        ),
        core("collector::test_the_callbacks_run_no_python", "ctrl_c::test_during_a_collection"),
    ),
    Mutant(
        "a pending signal ends the exit pass",
        "a signal strikes before the first line of the pass, which is not entered again",
        "I3",
        (
            ("_core/runtime.py", "_ENTRIES = 4\n", "_ENTRIES = 1\n"),
            (
                "_core/runtime.py",
                "atexit.register(_run_exit_hooks)\n# Registers finalize",
                "# Registers finalize",
            ),
        ),
        core("exit::test_ctrl_c_that_is_pending_as_the_exit_pass_begins"),
    ),
    Mutant(
        "an interrupted worker loses its ticket",
        "an exception of another thread comes between taking a ticket and running it",
        "I3",
        (
            (
                "places/workers.py",
                "                workers.mailbox.put(ticket)\n            self.struck_with = ticket\n",
                "                pass\n            self.struck_with = ticket\n",
            ),
        ),
        core("late_exceptions::test_a_worker_loses_no_ticket"),
    ),
    Mutant(
        "a dead worker is not replaced",
        "an exception of another thread ends it on its last lines: its tickets are never run",
        "I3",
        (("places/workers.py", "        self._replace_dead()\n", ""),),
        core("late_exceptions::test_a_worker_that_died_without_a_word_is_replaced"),
    ),
    Mutant(
        "what is left to a closing worker is dropped",
        "the worker that should run it ends before it does",
        "I3",
        (("places/workers.py", "                other.left.append(ticket)\n", ""),),
        core("late_exceptions::test_a_close_on_a_worker_that_ends_early_leaves_its_ticket_to_others"),
    ),
    Mutant(
        "close waits for a collection elsewhere",
        "close() waits for as long as a __del__ on another thread takes",
        "I5",
        (("_core/runtime.py", "        if now > until:\n            return False\n", ""),),
        core("collector::test_a_close_does_not_wait_for_a_collection_on_another_thread"),
    ),
    Mutant(
        "every failure is tried again",
        "a release that may have released is called a second time",
        "I3",
        (
            (
                "_core/release.py",
                "    if is_of(error, (NotReleased, *extra.retry_on)) and _may_retry(record, extra):\n",
                "    if _may_retry(record, extra):\n",
            ),
        ),
        core("places"),
    ),
    Mutant(
        "retried after a timeout",
        "a release that raised NotReleased after its deadline runs again",
        "I3",
        (
            (
                "_core/release.py",
                "        record.phase = STUCK\n        orphans.append(record.obj)",
                "        record.phase = None\n        record.outcome = None\n        record.place.put(record)\n        orphans.append(record.obj)",
            ),
        ),
        core("places"),
    ),
    Mutant(
        "an interrupted release begins again",
        "a release that was interrupted in the middle runs a second time",
        "I3",
        (
            (
                "_core/release.py",
                '            record.more().reason = "interrupted while its release ran"\n            record.outcome = FAILED\n',
                "            record.phase = None\n            if not _run(record, timed):\n                return\n",
            ),
            (
                "_core/release.py",
                "                record.outcome = RELEASED\n            except BaseException as error:\n",
                "                record.outcome = RELEASED\n            except Exception as error:\n",
            ),
            (
                "_core/handle.py",
                "record.outcome = RELEASED\n                                except BaseException as error:\n",
                "record.outcome = RELEASED\n                                except Exception as error:\n",
            ),
        ),
        core("interrupts"),
    ),
    Mutant(
        "two owners",
        "a second registration of the same native is not refused",
        "I3",
        (
            (
                "_core/owning.py",
                "        if owners.setdefault(key, record) is not record:\n",
                "        if owners.setdefault(key, record) is None:\n",
            ),
        ),
        core("manager", "bad_input"),
    ),
    # -- at its place
    Mutant(
        "released in the death callback",
        "the release runs wherever the last reference goes, also inside the collector",
        "I4",
        (
            (
                "_core/register.py",
                "Record(core, place.put)",
                "Record(core, lambda record: process(record) if record.place.inline else record.place.put(record))",
            ),
            (
                "_core/register.py",
                "from lifecycle._core.handle import Handle\n",
                "from lifecycle._core.handle import Handle\nfrom lifecycle._core.release import process\n",
            ),
            (
                "manager/manager.py",
                "Record(core, place.put)",
                "Record(core, lambda record: process(record) if record.place.inline else record.place.put(record))",
            ),
            (
                "manager/manager.py",
                "from lifecycle._core.handle import Handle, new_share\n",
                "from lifecycle._core.handle import Handle, new_share\nfrom lifecycle._core.release import process\n",
            ),
        ),
        core("collector", "nesting"),
    ),
    Mutant(
        "closing in the collector releases there",
        "with ANY_THREAD the release runs inside a collection",
        "I4",
        (
            (
                "_core/place.py",
                "        if collecting and runtime.in_collector():\n            return False\n        claims",
                "        claims",
            ),
            (
                "_core/handle.py",
                " and record.extra is None and not collecting:\n",
                " and record.extra is None:\n",
            ),
        ),
        core("handle", "collector"),
    ),
    Mutant(
        "any thread may drain",
        "the objects of a queue are released on whatever thread closes them",
        "I4",
        (
            (
                "places/queues.py",
                "    def may_run_here(self) -> bool:\n",
                "    def may_run_here(self) -> bool:\n        return True\n\n    def _may_run_here(self) -> bool:\n",
            ),
        ),
        core("places"),
    ),
    Mutant(
        "a child process releases",
        "a forked child releases objects that it inherited",
        "I4",
        (
            (
                "manager/shutdown.py",
                "    for record in open_records(registry):\n        record.phase = None\n",
                "    for record in ():\n        record.phase = None\n",
            ),
        ),
        core("process::test_a_forked_child_releases_nothing_of_its_parents"),
    ),
    Mutant(
        "a lost queue releases nevertheless",
        "natives whose context is gone are released",
        "I4",
        (("places/queues.py", "        count = old.lose()\n", "        count = 0\n"),),
        core("places"),
    ),
    # -- deadlines and failures
    Mutant(
        "a stuck release lets go of the parent",
        "the parent is released although the release of the child may still be running",
        "I2",
        (
            (
                "places/workers.py",
                "        record.phase = STUCK\n",
                "        record.phase = STUCK\n        record.parent = None\n",
            ),
        ),
        core("places", "nesting"),
    ),
    Mutant(
        "no deadline",
        "a release that hangs is never declared stuck, and blocks a worker for ever",
        "I6",
        (("places/workers.py", "                    now >= deadline\n", "                    False\n"),),
        core("places::test_a_release_past_its_deadline_is_stuck_and_may_come_back_late"),
    ),
    Mutant(
        "cleanups in the order of adding",
        "the cleanup that was added first runs first",
        "I2",
        (
            (
                "_core/release.py",
                "        cleanup = cleanups[-1]\n        del cleanups[-1]\n",
                "        cleanup = cleanups[0]\n        del cleanups[0]\n",
            ),
        ),
        core("nesting", "manager"),
    ),
    Mutant(
        "one failing cleanup ends them all",
        "the other cleanups and the release do not run",
        "I6",
        (
            (
                "_core/release.py",
                "            if _cleanup_failed(record, extra):\n                raise\n",
                "            _cleanup_failed(record, extra)\n            raise\n",
            ),
        ),
        core("nesting", "manager"),
    ),
    Mutant(
        "a panic does not close the object",
        "the object stays open after an undeclared exception",
        "I6",
        (
            (
                "manager/access.py",
                '        invalidate_record(record, Cause.PANIC, f"panic: {reason}{at}", None)\n',
                "",
            ),
        ),
        core("safe_access"),
    ),
    Mutant(
        "Ctrl-C is a panic",
        "a KeyboardInterrupt in an access makes the object invalid",
        "I6",
        (("manager/access.py", "    if is_control_flow(error):\n        return None\n", ""),),
        core("safe_access"),
    ),
    # -- nothing waits for itself
    Mutant(
        "nesting has no end",
        "a chain of releases that close each other is a recursion without a limit",
        "I5",
        (
            (
                "_core/place.py",
                "        if claims and nesting() >= NEST_LIMIT:\n            return False\n",
                "",
            ),
        ),
        core("places", "nesting"),
    ),
    Mutant(
        "starting is not given back",
        "after an interrupt while the threads are started, no later registration starts them",
        "I5",
        (
            (
                "manager/machinery.py",
                "                if self._starters[None] is me:\n                    del self._starters[None]\n",
                "                if started and self._starters[None] is me:\n                    del self._starters[None]\n",
            ),
            (
                "manager/machinery.py",
                "        me: object = []\n        try:\n",
                "        me: object = []\n        started = False\n        try:\n",
            ),
            (
                "manager/machinery.py",
                "            self._registry.started = True\n",
                "            self._registry.started = started = True\n",
            ),
        ),
        core("interrupts::test_the_first_registration_of_a_manager_which_starts_the_threads"),
    ),
    Mutant(
        "a wait that times out leaves its entry",
        "each close(timeout=) that timed out stays in a table",
        "I8",
        (
            (
                "_core/waiting.py",
                "        if not waiters.here:\n",
                "        if False:\n",
            ),
        ),
        core("handle", "waiting"),
        kind="growth",
    ),
    # -- one wait
    Mutant(
        "a waiter checks before it is in the list",
        "a change between its check and its entry is missed",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                result = ready()\n                if result:\n                    return result\n                left = -1.0\n",
                "                left = -1.0\n",
            ),
        ),
        core("waiting::test_every_order_of_a_waiter_and_a_change"),
    ),
    Mutant(
        "a waiter does not check that its entry is still there",
        "a child that was forked in the middle of the wait waits for a lock that a thread of its parent holds",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                if hung.get(_THREADS) is not bell:\n",
                "                if False:\n",
            ),
        ),
        core("waiting_forms::test_a_thread_that_forks_while_it_asks"),
        kind="a wake-up lost",
    ),
    Mutant(
        "a waiter that gives up removes the entry",
        "another waiter has just found that entry, and is never woken",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                self.here.pop(me, None)\n\n    def wait_async",
                "                self.here.pop(me, None)\n                if not self.here:\n                    self.hung.pop(_THREADS, None)\n\n    def wait_async",
            ),
        ),
        core(
            "waiting::test_every_order_of_a_waiter_a_change_and_one_that_gives_up",
            "waiting_forms::test_forks_in_a_storm_of_waits",
        ),
    ),
    Mutant(
        "a woken thread keeps the lock",
        "of several waiters only one is woken",
        "I5",
        (("_core/waiting_list.py", "                    if rung:\n", "                    if False:\n"),),
        core("waiting::test_many_waiters_are_one_bell_and_leave_nothing"),
    ),
    Mutant(
        "a woken thread passes the lock on after another call",
        "an interrupt in the first waiter leaves the others asleep",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                finally:\n                    if rung:\n                        # For the next one at this bell.\n                        bell()\n",
                "                except ZeroDivisionError:\n                    raise\n                int(left)\n                if rung:\n                    bell()\n",
            ),
        ),
        core(
            "waiting::test_an_interrupt_at_each_point_of_a_waiter_that_others_stand_behind",
            "waiting::test_exceptions_raised_into_threads_that_wait",
        ),
    ),
    Mutant(
        "taking the lock of an entry and noting it are two steps",
        "an interrupt between the two keeps the lock for ever",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                    for rung in iter(partial(bell.__self__.acquire, True, left), None):  # type: ignore[attr-defined]  # noqa: B007\n                        break\n",
                "                    rung = bell.__self__.acquire(True, left)\n",
            ),
        ),
        core(
            "waiting::test_an_interrupt_at_each_point_of_a_waiter_that_others_stand_behind",
            "waiting::test_exceptions_raised_into_threads_that_wait",
        ),
    ),
    Mutant(
        "waking is a Python function",
        "an interrupt between a change and the wake-up leaves all waiters asleep",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "            self.wake = partial(next, zip(*self.rings(), strict=False))\n",
                "            self.wake = lambda: [next(one) for one in self.rings()]\n",
            ),
        ),
        core("waiting::test_an_interrupt_at_each_point_of_the_change"),
    ),
    Mutant(
        "a call between taking an entry and waking it",
        "an interrupt there leaves a lock that is never released",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "                map(ring, iter(partial(hung.pop, _THREADS, noop), None)),\n",
                "                map(lambda bell: (len(hung), bell())[1], iter(partial(hung.pop, _THREADS, noop), None)),\n",
            ),
        ),
        core(
            "waiting::test_an_interrupt_at_each_point_of_the_change",
            "waiting::test_a_storm_of_signals_in_the_change",
        ),
    ),
    Mutant(
        "a forked child keeps the waits of its parent",
        "it counts waits of threads that it does not have, and its own wait comes after theirs",
        "I5",
        (
            (
                "_core/waiting_list.py",
                "    os.register_at_fork(after_in_child=_after_fork)\n",
                "    pass\n",
            ),
        ),
        core("waiting_forms"),
    ),
    Mutant(
        "a list is removed without a wake-up",
        "the last waiter to leave the table removes a list at which another has just begun to wait",
        "I5",
        (("_core/waiting.py", "                out.wake()\n", "                pass\n"),),
        core("waiting"),
        kind="a wake-up lost",
    ),
    Mutant(
        "a waiter stays at a list that was removed",
        "that list is never woken again",
        "I5",
        (
            (
                "_core/waiting.py",
                "        return bool(ready()) or self.get(key) is not waiters\n",
                "        return bool(ready())\n",
            ),
        ),
        core("waiting"),
    ),
    Mutant(
        "leaving a line wakes nobody",
        "the next one in the line does not learn that it is first",
        "I5",
        (("_core/waiting.py", "                self._heads,\n", ""),),
        core(
            "waiting_forms::test_nobody_is_passed_by",
            "waiting_forms::test_every_order_of_two_who_wait_their_turn",
            "waiting_forms::test_a_storm_of_turns",
        ),
    ),
    Mutant(
        "leaving a line is two steps",
        "an interrupt between them leaves those behind asleep",
        "I5",
        (
            (
                "_core/waiting.py",
                "            finally:\n                leave()\n        finally:\n            # Again, for an interrupt in the other.\n            leave()\n",
                "            finally:\n                row.pop(me, None)\n                leave()\n        finally:\n            pass\n",
            ),
        ),
        core("waiting_forms::test_an_interrupt_at_each_point_of_a_turn_that_others_stand_behind"),
    ),
    Mutant(
        "an answer is announced only without an interrupt",
        "an interrupt between an answer and its announcement leaves the asking thread asleep",
        "I5",
        (
            (
                "_core/waiting.py",
                "        try:\n            return self._box.setdefault(0, mine) is mine\n        finally:\n            self._waiters.wake()\n",
                "        won = self._box.setdefault(0, mine) is mine\n        self._waiters.wake()\n        return won\n",
            ),
        ),
        core("waiting_forms::test_an_interrupt_at_each_point_of_an_answer"),
    ),
    Mutant(
        "the death of an object wakes nobody",
        "a thread that waits for the end of a held object learns of it only at its next check",
        "I5",
        (
            (
                "_core/ends.py",
                "weakref.ref(core, waiters.wake)",
                "weakref.ref(core)",
            ),
        ),
        core("waiting::test_the_death_of_the_last_holder_wakes_who_waits_for_the_end"),
    ),
    Mutant(
        "the end of exclusive use wakes nobody",
        "a thread that waits for it learns of it only at its next check",
        "I5",
        (
            (
                "_core/exclusive.py",
                "                if extra.turn_line.first.hung:\n                    extra.turn_line.wake()\n",
                "",
            ),
        ),
        core("waiting::test_an_exclusive_use_that_ends_wakes_who_waits_for_it"),
    ),
    Mutant(
        "a loop that could not be called counts as called",
        "after an interrupt in the call, its coroutines wake only at the loop's next check, and so do all later ones",
        "I5",
        (
            (
                "_core/waiting_loops.py",
                "        except BaseException:\n            self.posted = False\n            raise\n",
                "        except ZeroDivisionError:\n            raise\n",
            ),
        ),
        core("waiting::test_an_interrupt_of_waking_a_coroutine_is_made_up_for_at_once"),
    ),
    Mutant(
        "the loops are called once",
        "after an interrupt in the call of a loop, its coroutines wake only at the loop's next check",
        "I5",
        (("_core/waiting_loops.py", "ATTEMPTS = 4\n", "ATTEMPTS = 1\n"),),
        core("waiting::test_an_interrupt_of_waking_a_coroutine_is_made_up_for_at_once"),
    ),
    Mutant(
        "a loop does not check its coroutines",
        "an interrupt at the entry of the call leaves them asleep for good",
        "I5",
        (("_core/waiting_loops.py", "    ticker.bells[bell] = None\n", ""),),
        core("waiting::test_an_interrupt_at_each_point_of_waking_a_coroutine"),
    ),
    Mutant(
        "the sum of a limit is not recounted",
        "after an interrupt in the middle of counting, bytes stay counted that no object has",
        "I7",
        (
            (
                "_core/tables.py",
                "                    self.held = None\n                    self.reserving = me = object()\n",
                "                    self.reserving = me = object()\n",
            ),
            (
                "_core/tables.py",
                "                except BaseException:\n                    self.held = None\n                    raise\n",
                "                except BaseException:\n                    raise\n",
            ),
        ),
        core("limits"),
    ),
    Mutant(
        "a place is given back twice",
        "the clean-up that is repeated after an interrupt lets the factory make one object more than its limit",
        "I9",
        (
            (
                "manager/factory.py",
                "iter(functools.partial(ticket.pop, 0, None), None)",
                "list(ticket.values())",
            ),
        ),
        core("limits"),
    ),
    Mutant(
        "the timer is read twice",
        "a lease fails when a profiler stops between the two reads",
        "I9",
        (
            (
                "_core/handle.py",
                "                timer = record.kind.timer\n                if timer is not None:\n                    return timer.lease(pin)",
                "                if record.kind.timer is not None:\n                    return record.kind.timer.lease(pin)",
            ),
        ),
        core("limits::test_policies_and_profilers_that_come_and_go_before_each_instruction"),
    ),
    Mutant(
        "a finalizer stays an owner",
        "each safe finalizer that has run keeps its record for ever",
        "I8",
        (("manager/finalizers.py", "            owners.pop(id(action), None)", "            pass"),),
        core("growth::test_finalizers_that_are_over_leave_nothing"),
    ),
    Mutant(
        "the list of live objects keeps ended ones",
        "records of a burst of objects stay until other objects of their type are made",
        "I8",
        (
            (
                "_core/counters.py",
                "            if self.gone <= COMPACT_AT",
                "            if self.gone <= 10**9",
            ),
        ),
        core("growth"),
    ),
    Mutant(
        "each release queue looks at all others",
        "making a queue takes time in proportion to the live ones",
        "I8",
        (("_core/runtime.py", '_sweep_at["child"] = 2 * len(_fork_hooks) + 64', '_sweep_at["child"] = 0'),),
        core("growth::test_a_release_queue_costs_the_same_with_many_alive"),
    ),
    # -- odd places
    Mutant(
        "a caller is always there",
        "close() raises if C calls it and there is no Python frame below",
        "I3",
        (
            (
                "_core/handle.py",
                "                except (ValueError, AttributeError):\n                    # C called it",
                "                except KeyError:\n                    # C called it",
            ),
        ),
        core("odd_places::test_every_call_works_there"),
    ),
    Mutant(
        "a release is begun at the recursion limit",
        "the release fails because of the depth at which close() was called, and its native is not freed",
        "I3",
        (
            ("_core/place.py", "            if no_room:\n", "            if False:\n"),
            ("_core/handle.py", "if not tight and claims", "if claims"),
        ),
        core("odd_places::test_no_release_fails_for_the_depth_it_was_closed_at"),
    ),
    Mutant(
        "a core whose death was not noted stays a root",
        "an object that was dropped at the recursion limit stays closing for ever",
        "I3",
        (("observe/lost.py", "                self._registry.unroot(core)\n", "                pass\n"),),
        core("odd_places::test_a_death_that_was_not_told_is_found"),
    ),
    Mutant(
        "a lost ticket is not posted again",
        "an object whose ticket was lost at the recursion limit stays due for ever",
        "I3",
        (("observe/lost.py", "                    place.put(record)\n", "                    pass\n"),),
        core("odd_places::test_a_death_that_was_not_told_is_found"),
    ),
    Mutant(
        "a waiting ticket is taken for a lost one",
        "a queue that is not drained grows with every round of the maintenance thread",
        "I7",
        (("observe/lost.py", " and record.id not in waiting and", " and"),),
        core("odd_places::test_what_waits_for_a_drain_is_not_posted_again"),
    ),
    Mutant(
        "what the recursion limit cut off is forgotten",
        "an object that a factory made at the limit is never released",
        "I3",
        (
            (
                "observe/lost.py",
                "                        entry[0](*entry[1])\n",
                "                        pass\n",
            ),
        ),
        core("odd_places::test_what_a_factory_made_at_the_limit_is_released"),
    ),
    # -- what people were told
    Mutant(
        "Ctrl-C in a release is a failure like any",
        "the release ends as failed, and the program goes on as if Ctrl-C had not been pressed",
        "I3",
        (
            (
                "_core/release.py",
                "    if interrupt:\n        finish(record)\n",
                "    if False:\n        finish(record)\n",
            ),
        ),
        core("ctrl_c::test_in_the_release_itself"),
        kind="an interrupt swallowed",
    ),
    Mutant(
        "a handle does not see exclusive use",
        "during exclusive use `valid` says no, while the state and `is_valid(id)` say yes",
        "I1",
        (
            (
                "_core/handle.py",
                "        return raw_pin(self._cell) is not None and self._record.cause is None\n",
                "        return self._cell.pin is not None and self._record.cause is None\n",
            ),
        ),
        (*anywhere("test_whoever_looks_at_any_point_is_told_one_thing[exclusive]"), *core("exclusive")),
        kind="two answers",
    ),
    Mutant(
        "components are held strongly",
        "a component that appears in the metrics lives for ever",
        "I3",
        (
            (
                "manager/manager.py",
                "        self._components: weakref.WeakSet[Any] = weakref.WeakSet()\n",
                "        self._components: set[Any] = set()\n",
            ),
        ),
        core("manager"),
        kind="a hook that holds its owner",
    ),
    Mutant(
        "a borrowed object is a leak",
        "dropping a handle of an object that is owned elsewhere is reported",
        "I7",
        (("observe/leaks.py", ' == "off" or record.owning <= 0:\n', ' == "off":\n'),),
        ("tests/leaks/test_leaks.py",),
        kind="a false alarm",
    ),
    Mutant(
        "the validator is read twice",
        "it is removed between the two reads, and an access raises TypeError",
        "I5",
        (
            (
                "_core/access.py",
                "if refuses(validate(record.obj)) else",
                "if refuses(record.kind.validate(record.obj)) else",
            ),
        ),
        anywhere("test_rules_that_change_at_each_line[safe_access-policies]"),
        kind="a race with policies",
    ),
    Mutant(
        "an evicted loop just ends",
        "a receiver that was evicted sees the end of the stream",
        "I9",
        (
            (
                "distribution/receiver.py",
                "                self._frame = self._receiver.recv()\n                return self._frame  # type: ignore[no-any-return]\n"
                "            except Lagged:\n                continue  # counted in `missed`\n            except EvictedError:\n                raise\n",
                "                self._frame = self._receiver.recv()\n                return self._frame  # type: ignore[no-any-return]\n"
                "            except Lagged:\n                continue  # counted in `missed`\n",
            ),
        ),
        ("tests/sharing/test_distributor.py",),
        kind="a silent end",
    ),
    # -- the figures
    Mutant(
        "an end is counted twice",
        "an end that is announced again after an interrupt is counted again",
        "I7",
        (
            (
                "observe/ledger.py",
                " for record in ended if record.counted != ENDED_TOO}",
                " for record in ended}",
            ),
        ),
        core("interrupts", "places", "statistics"),
    ),
    Mutant(
        "plain ends that are being counted are in a local",
        "an interrupt in the middle of counting loses them",
        "I7",
        (
            (
                "observe/ledger.py",
                "        batch = self._plain\n        _move",
                "        batch: list[Record] = []\n        _move",
            ),
        ),
        core("statistics::test_counting_that_is_interrupted_anywhere_counts_everything_once"),
    ),
    Mutant(
        "a call between the totals and the batch",
        "after an interrupt there plain ends are counted twice",
        "I7",
        (
            (
                "observe/ledger.py",
                "        self.plain = totals\n        count.registered",
                "        self.plain = totals\n        len(batch)\n        count.registered",
            ),
        ),
        core("statistics::test_counting_that_is_interrupted_anywhere_counts_everything_once"),
    ),
    Mutant(
        "the event in hand is in a local",
        "an interrupt in the middle of counting loses a refusal, a panic or a leak",
        "I7",
        (
            (
                "observe/ledger.py",
                "                for self._event in self._next_events:  # noqa: B020 - K2\n                    break\n"
                "            self._count_one(self._event)\n",
                "                self._count_one(next(self._next_events))\n",
            ),
        ),
        core("statistics::test_counting_that_is_interrupted_anywhere_counts_everything_once"),
    ),
    Mutant(
        "the role is taken in two steps",
        "after an interrupt between them the role stays taken: nothing is counted or reported any more",
        "I7",
        (
            (
                "observe/maintenance.py",
                "            for counts[me] in map(role.acquire, (timeout != 0.0,), (timeout or -1,)):  # K2\n"
                "                pass\n",
                "            counts[me] = role.acquire(timeout != 0.0, timeout or -1)\n",
            ),
            ("observe/maintenance.py", "ROLE_WAIT = 10.0\n", "ROLE_WAIT = 0.1\n"),
        ),
        core("statistics::test_counting_that_is_interrupted_anywhere_counts_everything_once"),
    ),
    Mutant(
        "a registration keeps its frame's pin",
        "a kept exception of a release that ran during a registration keeps an unrelated object alive",
        "I2",
        (
            (
                "manager/manager.py",
                "                del core, pin, cell, handle, now\n",
                "                pass\n",
            ),
        ),
        core("nesting::test_one_that_fails_changes_nothing_for_the_rest"),
    ),
    Mutant(
        "a refused object counts against the limit",
        "the budget shrinks with each refusal",
        "I9",
        (
            (
                "_core/tables.py",
                "                        if not over:\n",
                "                        alive[-id] = size\n                        if not over:\n",
            ),
        ),
        core("manager::test_a_limit_of_objects_counts_what_is_not_released"),
    ),
    Mutant(
        "a limit is never given back",
        "released objects still count against the limit",
        "I7",
        (
            (
                "_core/release.py",
                "    if kind.alive is not None:\n        kind.gone.append(id)\n    extra",
                "    extra",
            ),
            (
                "_core/release.py",
                "    if kind.alive is not None:  # from here as `forget`\n        kind.gone.append(id)",
                "    if True:\n        pass",
            ),
            (
                "_core/handle.py",
                "                                    if kind.alive is not None:\n"
                "                                        kind.gone.append(id)\n",
                "",
            ),
            ("_core/handle.py", " or kind.alive is not None:\n", ":\n"),
        ),
        core("manager"),
    ),
    # -- the end
    Mutant(
        "oldest first",
        "closing the manager releases in the order of registration, not newest first",
        "I2",
        (
            (
                "_core/tables.py",
                "for record in reversed(runtime.snapshot(registry.records.values()))",
                "for record in (runtime.snapshot(registry.records.values()))",
            ),
        ),
        core("shutdown"),
    ),
    Mutant(
        "registered after the end",
        "a closed manager takes objects that it never releases",
        "I3",
        (
            ("_core/register.py", "        if registry.closed:\n            raise ClosedError\n", ""),
            (
                "manager/manager.py",
                "            if registry.closed:\n                raise ClosedError\n",
                "",
            ),
        ),
        core("shutdown"),
    ),
    # -- what is kept, by whom, and how often
    Mutant(
        "a hook keeps its owner",
        "a dropped facade lives as long as its manager, and is not reported",
        "I3",
        (
            (
                "facades.py",
                "self._manager.on_close(weakly(self._stopped))",
                "self._manager.on_close(self._stopped)",
            ),
        ),
        ("tests/managers/test_dropped.py",),
    ),
    Mutant(
        "a dropped component is not reported",
        "a forgotten component is ended, and no leak is reported",
        "I7",
        (("manager/components.py", "        record.owning = 1\n", "        record.owning = 0\n"),),
        ("tests/managers/test_dropped.py",),
    ),
    Mutant(
        "a closed component counts as an object",
        "an end is counted although the component was never counted",
        "I7",
        (("manager/components.py", "            registry.records.pop(record.id, None)\n", ""),),
        ("tests/managers/test_dropped.py",),
    ),
    Mutant(
        "GStreamer keeps the function",
        "an object whose guard calls one of its methods lives for ever",
        "I3",
        (
            (
                "../integrations/gstreamer/pipelines/callbacks.py",
                "weakref.ref(self.kept)",
                "lambda kept=self.kept: kept",
            ),
        ),
        ("tests/gstreamer/test_dropped.py::test_an_owner_is_freed_and_its_guard_reported",),
    ),
    Mutant(
        "owners are copied",
        "a copied guard runs its action again",
        "I3",
        (
            (
                "_core/keeping.py",
                "    def __reduce_ex__(self, protocol: object) -> NoReturn:\n",
                "    def _refuse(self, protocol: object) -> NoReturn:\n",
            ),
        ),
        core("copying"),
    ),
    Mutant(
        "an appsink that starts is at its end",
        "a loop that begins while its pipeline starts ends without an error",
        "I6",
        (
            (
                "../integrations/gstreamer/captures/appsink.py",
                'return "eos" if sink.get_property("eos") and _has_seen_end(sink) else "flowing"',
                'return "eos"',
            ),
        ),
        ("tests/gstreamer/test_ends.py",),
    ),
    Mutant(
        "one component fails the scrape",
        "an exception of one component loses the figures of all others",
        "I6",
        (
            (
                "../integrations/prometheus/components.py",
                '                _report(manager, _text(component, "kind"), _text(component, "name"), error)\n',
                "                raise\n",
            ),
        ),
        ("tests/prometheus/test_broken.py",),
        kind="one bad input breaking the rest",
    ),
    # -- one answer, and no false alarm
    Mutant(
        "what the collector has is taken for gone",
        "an open object in a garbage cycle is said to be closed, though leases are granted",
        "I9",
        (("_core/doors.py", " or door() is not None or lives(record)", " or door() is not None"),),
        core("answers"),
    ),
    Mutant(
        "an object in a garbage cycle stays open",
        "closing it by id during a collection has no effect",
        "I1",
        (
            (
                "_core/handle.py",
                "            if record.cause is not None or record.kind.validate is not None:\n",
                "            if record.kind.validate is not None:\n",
            ),
        ),
        core("answers"),
    ),
    Mutant(
        "judged before __del__ has run",
        "an object that a __del__ of its cycle closes is counted and reported as a leak",
        "I7",
        (("observe/ledger.py", "        if lives(record) and looks < LOOKS:\n", "        if False:\n"),),
        core("answers"),
    ),
    Mutant(
        "a release that has begun is not waited for",
        "a number that is given out again is taken for a second owner",
        "I9",
        (
            (
                "_core/owning.py",
                "    return phase is RELEASING or (phase in ENDED and phase is not STUCK) or has_died(first)\n",
                "    return (phase in ENDED and phase is not STUCK) or has_died(first)\n",
            ),
            (
                "_core/owning.py",
                "        wait_for_end(first, monotonic() + HANDED_ON_WITHIN, None, insist=False)\n",
                "        pass\n",
            ),
        ),
        core("owners"),
    ),
    Mutant(
        "a release that begins meanwhile leads to a refusal",
        "a number is taken for a second owner, though the release of the first began after it was checked",
        "I9",
        (
            (
                "_core/owning.py",
                "        if not _has_let_go(first):\n            raise",
                "        if True:\n            raise",
            ),
        ),
        core("owners::test_who_looked_before_the_release_began_waits_for_it_all_the_same"),
        kind="a false alarm",
    ),
    Mutant(
        "an owner beside others takes their entry",
        "objects that own a native side by side are forgotten, and a true second owner is not refused",
        "I3",
        (
            (
                "_core/owning.py",
                "        new = Lives((*living, record)) if living else record\n",
                "        new = record\n",
            ),
        ),
        core("owners"),
    ),
    Mutant(
        "an end removes another's entry",
        "the successor's native is left without an owner, and a second owner is not refused",
        "I3",
        (("_core/release.py", "        if owners[key] is record:\n", "        if owners[key]:\n"),),
        core("owners"),
    ),
    Mutant(
        "an address is one native of its type only",
        "the same address under another type, at another place or in another manager is not refused",
        "I3",
        (
            (
                "_core/tables.py",
                "            keys.append(~number)\n",
                "            keys.append((id(record.place), record.kind.type_name, number))\n",
            ),
        ),
        core("owners"),
    ),
    Mutant(
        "a number is one native of its type everywhere",
        "texture 7 of one queue is refused because of texture 7 of another",
        "I9",
        (("places/queues.py", "        self.world: int = id(self)\n", ""),),
        core("owners"),
    ),
    Mutant(
        "threads that start end during close",
        "close() waits for its whole budget when another thread makes the first registration",
        "I5",
        (
            (
                "manager/machinery.py",
                "        if self._over:\n            self.wind_down",
                "        if self._registry.closed:\n            self.wind_down",
            ),
        ),
        core("shutdown::test_threads_that_were_being_started_serve_the_one_who_closes"),
    ),
    Mutant(
        "a thread that never begins is waited for",
        "if a worker is interrupted on its first line, the thread that started it waits for ever",
        "I5",
        (("_core/runtime.py", "functools.partial(begun.wait, START_PATIENCE)", "begun.wait"),),
        core("late_exceptions::test_a_thread_that_is_ended_before_it_begins_is_not_waited_for"),
    ),
    Mutant(
        "a flush is taken for a refusal of caps",
        "a branch that is flushed while new caps come ends for good",
        "I9",
        (
            (
                "../integrations/gstreamer/sharing/fuse.py",
                "if before % 2 or before != self._flushes or not _is_active(peer):",
                "if not _is_active(peer):",
            ),
        ),
        ("tests/gstreamer/test_fuses.py::test_a_flush_while_the_caps_are_on_their_way_is_no_failure",),
    ),
    Mutant(
        "no wake-up with a view",
        "the release comes a quarter of a second after the last array, not at once",
        "I5",
        (
            (
                "_core/views.py",
                "            arm(pin.record)\n        return view[:nbytes]",
                "            pass\n        return view[:nbytes]",
            ),
        ),
        core("at_once"),
    ),
    Mutant(
        "no wake-up for what outlives a close",
        "the release comes a quarter of a second after the last lease, child or block, not at once",
        "I5",
        (
            ("_core/place.py", " and not arm(record):\n", " and record() is None:\n"),
            (
                "_core/place.py",
                "                and arm(record)\n",
                "                and record() is not None\n",
            ),
        ),
        core("at_once"),
    ),
    Mutant(
        "each close wakes a worker",
        "a worker is woken although the closing thread itself releases the object",
        "I5",
        (
            (
                "_core/handle.py",
                "                    registry.bells.pop(id, None)\n",
                "                    pass\n",
            ),
        ),
        core("at_once"),
    ),
    Mutant(
        "the worker releases what the closing thread should",
        "a native that is bound to its thread is released on another",
        "I4",
        (("_core/leases.py", "        leave(record)\n", ""),),
        core("at_once"),
    ),
    Mutant(
        "what others refer to is said to be gone",
        "a native that is freed by its own deallocation is freed wherever the last reference goes",
        "I4",
        (
            (
                "_core/dropped.py",
                "    return references(record) > SOLE and references(record) > SOLE\n",
                "    return False\n",
            ),
        ),
        core("dropped"),
    ),
    Mutant(
        "an export holds nothing",
        "memory is released while another library's tensor reads it",
        "I2",
        (("_core/exports.py", "            of[self.number] = self\n", "            pass\n"),),
        ("tests/dlpack/test_dlpack.py",),
    ),
    Mutant(
        "an export is ended before it is over",
        "the sweep does not ask the foreign code whether it has finished",
        "I2",
        (("_core/exports.py", "export is None or not export.over()", "export is None"),),
        ("tests/dlpack/test_dlpack.py",),
    ),
    Mutant(
        "detached without an entry in the table",
        "the object has a state that the table of states does not have",
        "I9",
        (
            (
                "states.py",
                "DUE: frozenset({KEPT, RELEASING, STUCK, DETACHED, ORPHANED})",
                "DUE: frozenset({KEPT, RELEASING, STUCK, ORPHANED})",
            ),
        ),
        core("states", "ownership"),
    ),
    Mutant(
        "one broken event breaks the batch",
        "the events that were being counted with it are lost",
        "I7",
        (
            (
                "observe/ledger.py",
                "        except Exception as error:\n            self.observer.tell_failure(error)\n",
                "        except Exception:\n            raise\n",
            ),
        ),
        core("observers"),
    ),
    Mutant(
        "a remover removes twice",
        "the hook of another caller is removed too",
        "I6",
        (("observe/observers.py", "        hooks.pop(key, None)\n", "        hooks.popitem()\n"),),
        core("observers"),
    ),
    # -- numbers, and what strikes on the way
    Mutant(
        "a pointer is an object like any",
        "two wrappers of one native have one owner each, and it is released twice",
        "I3",
        (("_core/numbers.py", "    if issubclass(kind, _POINTER):\n        return _of_pointer\n", ""),),
        core("owners::test_a_number_is_the_same_native_in_every_form"),
        kind="two answers",
    ),
    Mutant(
        "every interrupt is one on the entry",
        "a release that has begun is called again",
        "I3",
        (
            (
                "_core/idioms.py",
                "    if RESUME is None:\n        return step.tb_lasti < 0\n",
                "    return True\n",
            ),
        ),
        core("ctrl_c::test_in_a_release_that_has_begun_it_is_not_called_again"),
        kind="an interrupt swallowed",
    ),
    Mutant(
        "an interrupt on the entry ends the release",
        "nothing of the release has run, and the native is lost",
        "I3",
        (
            (
                "_core/release.py",
                "if not isinstance(error, BaseException) or not struck_on_entry(error, record.release, record.obj):",
                "if True:",
            ),
        ),
        core("ctrl_c::test_before_the_first_line_of_a_release_it_is_called_again"),
        kind="a ticket lost",
    ),
    Mutant(
        "garbage counts against the limit",
        "a registration is refused because of objects that only garbage refers to",
        "I9",
        (("_core/room.py", "not _collected(left_to_ask)", "True"),),
        core("limits::test_what_only_garbage_holds_makes_room"),
        kind="a false alarm",
    ),
    Mutant(
        "types are forgotten one after the other",
        "an object that has just ended is unknown, while older ones are remembered",
        "I8",
        (
            ("observe/ledger.py", "        self._expiring += in_turn\n", ""),
            (
                "observe/ledger.py",
                "        batch = self._plain\n        # K4\n",
                "        self._expiring.extend(ours)\n        batch = self._plain\n        # K4\n",
            ),
        ),
        core("manager::test_of_several_types_the_oldest_are_forgotten_first"),
    ),
    Mutant(
        "a key frame request is lost in the push",
        "a client that lost packets waits for a key frame that is not requested",
        "I7",
        (
            (
                "../integrations/gstreamer/sharing/client.py",
                "            self._sent += 1\n",
                "            self._sent += 1\n            self._needs_key = False\n",
            ),
        ),
        ("tests/gstreamer/test_clients.py::test_a_restart_while_a_frame_is_given_is_not_forgotten",),
        kind="a wake-up lost",
    ),
    Mutant(
        "describing an object makes it accessible",
        "while a message about a dropped object is made, another thread can access the object",
        "I1",
        (("_core/describe.py", "record.shut or record.born + 0.0", "record.shut or record.born"),),
        core("answers::test_who_speaks_of_a_dropped_object_opens_no_door"),
        kind="two answers",
    ),
    Mutant(
        "a close that was not counted is not looked for",
        "after an interrupt the figures call an object valid that is closed",
        "I7",
        (("observe/lost.py", "if record.cause is not None and record.phase is None and", "if False and"),),
        core("statistics::test_a_door_whose_closer_was_interrupted_before_it_told_is_counted"),
        kind="two answers",
    ),
    Mutant(
        "a fence's descriptor is closed during a call",
        "its number belongs to another file already, which is asked instead",
        "I5",
        (
            (
                "fences.py",
                "        watched = self._watched\n        if watched is not None:\n            return bool(select.select([watched], [], [], 0)[0])",
                "        watched = self._watched and self._watched.fileno()\n        if watched is not None:\n            return bool(select.select([watched], [], [], 0)[0])",
            ),
        ),
        ("tests/sharing/test_fences.py::test_a_fence_of_a_process_is_deleted_while_another_thread_asks_it",),
    ),
    Mutant(
        "two threads write that an object is closed",
        "the flight recorder has a second closing after the release",
        "I7",
        (
            (
                "recorder/hooks.py",
                "            if noted.setdefault(id, me) is not me:\n",
                "            if noted.setdefault(id, me) is None:\n",
            ),
        ),
        (
            "tests/recorder/test_recorder.py::test_what_is_closed_while_it_is_held_is_shut_in_the_file",
            "tests/recorder/test_killed.py",
        ),
    ),
)
