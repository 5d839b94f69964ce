"""The low-level layer: what pools, distribution, the memory and object managers and every integration are
built on, and what an integration of your own is built on (docs/integrations.md).

It is stable and public, but it has more rules than the rest of the library: an adapter that breaks one of the
contracts below can lose objects. Everything here may be called on any thread, inside a garbage
collection and in a signal handler, and nothing here waits, unless the table says otherwise.

=====================  =======================================================================  ==========
name                   contract                                                                 keeps
=====================  =======================================================================  ==========
`recipe`, `Recipe`     register an object per frame; from the call on it will be released       I3, I9
`Pin`, `pin`           a reference on the object's pin; while it is held nothing is released    I1, I2
`raw`                  the object itself, valid while the pin is held                           I4
`view`                 a memoryview of native memory, which holds the pin                       I2
`view_of`, `array_of`  the same for the memory of a buffer or ndarray                           I2
`facts`, `Facts`       the facts of an object, now and after its end; keeps nothing alive       I9
`apart`                mark a consumer's share: a panic through it closes only this share       I6
`describe`             the object's name in messages                                            I9
`about`                add the facts of an object to an error of your own                       I9
`Export`               holds a pin for memory in foreign code, until that has finished          I2
`sweep_exports`        end finished exports, and run a bounded number of due releases           I2, I5
`holders`              what keeps it from being released. Searches the heap; with a budget      I9
`is_closed`            true if this handle itself was closed
`held_pin`             the pin of an object that is still held, also after `close`              I2
`Leaving`              a table whose entries are removed by the step that ends their objects    I3
`tend`                 run some, or all, of the releases that wait for any thread               I5
`releasing`            true if a release runs or waits for a worker
`type_name_of`         the type name of an object that is registered without one
`Claim`                decides which caller does something, once: K1                            I3
`taking`               take and store in one step: K2                                           I3
`forgets`              a kept exception keeps no object alive: K3                               I2
`refuse_near_limit`    `RecursionError` before anything is taken that could not be given back   I3
`is_control_flow`      true for an exception that must pass: Ctrl-C, exit, cancellation
`refuses`              true if a result of a validator or check means no, of any type
`is_dead`              true if a weak reference is dead; does not hold its object meanwhile     I3
`next_id`              a number that no object of the process has or will have
`Tally`                a counter that can be raised in any context                              I7
`WaitList`             threads and coroutines that wait until something is true. `wait` waits   I5
`Line`                 a queue of waiters: only the first is asked, none is overtaken           I5
`Flag`                 is set once, and stays set; `wait` waits                                 I5
`Reply`                one answer to one question; `get` waits                                  I5
`Inbox`                items for one consumer thread; `get` waits                               I5
`poll`                 ask again and again, for what cannot wake a waiter. Waits                I5
`HistogramCount`       durations in the buckets of `BUCKETS`, written by one thread at a time   I7
`CollectorNudge`       runs the collector, less and less often, when a pool stays exhausted     I5
`collect`              run the collector
`must_not_wait`        true if this thread must not block: a collection, `never_wait`           I5
`no_wait_threads`      the identities of threads that may not block: add and discard            I5
`complain`             report on stderr an error that cannot be raised, at any moment           I9
`after_fork`           called in each forked child while its object lives
`keep_for_ever`        an object that is never destroyed, at exit neither: for forked children
`run_apart`            call a function on a new thread, for what a collection must not do       I4, I5
`snapshot`             a list of the items of a container that other threads change
`caller`               the frame outside this library, for ``site=``
`free_threaded`        true if this interpreter runs without the GIL
`monotonic`            the clock of timeouts, which `lifecycle.testing` can stop
`wall_time`            the clock of reports, which it can stop as well
`Uncopied`, `weakly`   objects that refuse copies; callbacks that do not keep their object      I3
`check_timeout`        raise for a bad timeout
`check_callback`       raise for a coroutine function
`check_facts`          raise for a bad name or size
`check_release`        raise for a release that cannot work
`whole`                a whole number as an int, also one of NumPy; None for what is none
`PlaceLike`            the type of ``release_on=``
`DEFAULT`, `Default`   what was not given, where None means something of its own; its type
=====================  =======================================================================  ==========

The idioms K1–K7 are explained in `lifecycle._core.idioms`.
"""

from lifecycle._core.checks import check_callback, check_facts, check_timeout, is_control_flow, refuses, whole
from lifecycle._core.counters import BUCKETS, HistogramCount
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.exports import Export
from lifecycle._core.exports import sweep as sweep_exports
from lifecycle._core.facts import (
    Facts,
    about,
    apart,
    array_of,
    describe,
    facts,
    held_pin,
    holders,
    is_closed,
    pin,
    raw,
    view,
    view_of,
)
from lifecycle._core.idioms import Claim, forgets, taking
from lifecycle._core.keeping import Uncopied, keep_for_ever, weakly
from lifecycle._core.leaving import Leaving
from lifecycle._core.nudge import CollectorNudge
from lifecycle._core.record import Pin
from lifecycle._core.runtime import (
    Tally,
    caller,
    collect,
    complain,
    free_threaded,
    is_dead,
    monotonic,
    must_not_wait,
    next_id,
    no_wait_threads,
    refuse_near_limit,
    run_apart,
    snapshot,
    wall_time,
)
from lifecycle._core.runtime import at_fork_in_child as after_fork
from lifecycle._core.waiting import Flag, Inbox, Line, Reply, WaitList, poll
from lifecycle.manager.rare import check_release
from lifecycle.manager.recipes import Recipe, recipe, releasing, tend, type_name_of
from lifecycle.places.queues import PlaceLike

__all__ = [
    "BUCKETS",
    "DEFAULT",
    "Claim",
    "CollectorNudge",
    "Default",
    "Export",
    "Facts",
    "Flag",
    "HistogramCount",
    "Inbox",
    "Leaving",
    "Line",
    "Pin",
    "PlaceLike",
    "Recipe",
    "Reply",
    "Tally",
    "Uncopied",
    "WaitList",
    "about",
    "after_fork",
    "apart",
    "array_of",
    "caller",
    "check_callback",
    "check_facts",
    "check_release",
    "check_timeout",
    "collect",
    "complain",
    "describe",
    "facts",
    "forgets",
    "free_threaded",
    "held_pin",
    "holders",
    "is_closed",
    "is_control_flow",
    "is_dead",
    "keep_for_ever",
    "monotonic",
    "must_not_wait",
    "next_id",
    "no_wait_threads",
    "pin",
    "poll",
    "raw",
    "recipe",
    "refuse_near_limit",
    "refuses",
    "releasing",
    "run_apart",
    "snapshot",
    "sweep_exports",
    "taking",
    "tend",
    "type_name_of",
    "view",
    "view_of",
    "wall_time",
    "weakly",
    "whole",
]
