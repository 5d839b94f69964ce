"""The low-level layer: what pools, distribution, the memory and object managers and every integration are
built on, and what an integration of your own is built on (docs/integrations.md).

It is stable and public, and it asks more of its user than the rest of the library: an adapter that breaks one
of the contracts below can lose objects. Everything here may be called on any thread, inside a garbage
collection and in a signal handler, and nothing here waits, unless the table says otherwise.

=====================  =======================================================================  ==========
name                   contract                                                                 keeps
=====================  =======================================================================  ==========
`recipe`, `Recipe`     registering per frame: from the call on the object is released           I3, I9
`Pin`, `pin`           the reference that counts: while it is held nothing is released          I1, I2
`raw`                  the object itself, valid while the pin is held                           I4
`view`                 native memory that holds the pin                                         I2
`view_of`, `array_of`  the memory of a buffer or ndarray, likewise                              I2
`facts`, `Facts`       what is known of an object, of now and after its end; keeps nothing      I9
`apart`                a consumer's share: a panic through it closes it, and no other            I6
`describe`             its name in messages                                                     I9
`about`                an error of yours with the facts of the object that it is about          I9
`Export`               a pin held by memory that foreign code was handed, until that says so     I2
`sweep_exports`        end those that are over, and run a bounded share of what fell due          I2, I5
`holders`              who keeps it from its release. Walks the heap; a budget if wished        I9
`is_closed`            whether this very handle was closed
`held_pin`             the pin of an object that somebody still holds, also after `close`       I2
`Leaving`              a table whose entries go by the step that ends their objects             I3
`tend`                 run a share, or all, of the releases that wait for any thread            I5
`releasing`            whether a release runs or waits for a worker
`type_name_of`         the type of an object that is registered without a type's name
`Claim`                who does it, once: K1                                                    I3
`taking`               take and store in one step: K2                                           I3
`forgets`              a kept exception keeps no object alive: K3                               I2
`refuse_near_limit`    `RecursionError` before anything is taken that could not be given back   I3
`is_control_flow`      an exception that is not to be contained: Ctrl-C, exit, cancellation
`refuses`              whether the answer of a validator or check is a no, whatever its type
`is_dead`              whether a weak reference is dead, asked without holding its object       I3
`next_id`              a number that no object of the process has or will have
`Tally`                a count that any context raises by one                                   I7
`WaitList`             threads and coroutines that wait until something is true. `wait` waits   I5
`Line`                 turns: only the first that waits is asked, and nobody is passed by       I5
`Flag`                 what is true from now on; `wait` waits                                   I5
`Reply`                one answer to one question; `get` waits                                  I5
`Inbox`                items for a thread that lives from them; `get` waits                     I5
`poll`                 asking again and again, for what can tell nobody. Waits                  I5
`HistogramCount`       durations in the buckets of `BUCKETS`, written by one thread at a time   I7
`CollectorNudge`       runs the collector, ever more rarely, when a pool stays exhausted        I5
`collect`              run the collector
`must_not_wait`        whether this thread may not block: a collection, `never_wait`            I5
`no_wait_threads`      the identities of threads that may not block: add and discard            I5
`complain`             report on stderr what nobody can be given, at any moment                 I9
`after_fork`           called in each forked child while its object lives
`keep_for_ever`        an object that is never destroyed, at exit neither: for forked children
`run_apart`            a call on a thread of its own, for what a collection may not do          I4, I5
`snapshot`             a list of a container that other threads change
`caller`               the frame outside this library, for ``site=``
`free_threaded`        whether this interpreter runs without the GIL
`monotonic`            the clock of timeouts, which `lifecycle.testing` can stop
`wall_time`            the clock of reports, which it can stop as well
`Uncopied`, `weakly`   objects that exist once; callbacks that keep their object alive not      I3
`check_timeout`        the refusal of bad timeouts
`check_callback`       the refusal of coroutine functions
`check_facts`          the refusal of names and sizes that are none
`PlaceLike`            the type of ``release_on=``
`DEFAULT`, `WhenDue`   the timeout that was not given, and its type
=====================  =======================================================================  ==========

The idioms K1–K7 are explained in `lifecycle._core.idioms`.
"""

from lifecycle._core.checks import check_callback, check_facts, check_timeout, is_control_flow, refuses
from lifecycle._core.counters import BUCKETS, HistogramCount
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
from lifecycle._core.place import DEFAULT, WhenDue
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
from lifecycle.manager.recipes import Recipe, recipe, releasing, tend, type_name_of
from lifecycle.places.queues import PlaceLike

__all__ = [
    "BUCKETS",
    "DEFAULT",
    "Claim",
    "CollectorNudge",
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
    "WhenDue",
    "about",
    "after_fork",
    "apart",
    "array_of",
    "caller",
    "check_callback",
    "check_facts",
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
]
