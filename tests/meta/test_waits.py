"""Threads wait in one way, by `lifecycle._core.waiting`: what else blocks is on a list, with its reason, and the
list only shrinks.

A hand-made wait is either a slice, which wakes an idle thread many times a second, or two steps ("change, then
wake") between which an interrupt loses the wake-up.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

THE_WAIT = {
    "lifecycle/_core/waiting.py",
    "lifecycle/_core/waiting_list.py",
    "lifecycle/_core/waiting_loops.py",
}
MADE = frozenset(
    {
        "Barrier",
        "BoundedSemaphore",
        "Condition",
        "Event",
        "LockQueue",
        "Queue",
        "Semaphore",
        "SimpleQueue",
        "TimedQueue",
        "allocate_lock",
    }
)
"""What can be waited for, by the name that makes one."""

GSTREAMER = "to become a Flag, a Reply, a WaitList of the pipeline, or poll"

LISTED: dict[tuple[str, str], tuple[int, str]] = {
    # -- below the wait
    ("lifecycle/_core/runtime.py", "sleep"): (2, "below the wait: a collection elsewhere, a busy container"),
    ("lifecycle/_core/runtime.py", "join"): (1, "the end of a forked child, as the interpreter does it"),
    ("lifecycle/_core/timed_queue.py", "allocate_lock"): (1, "for rooms that are not on the wait yet"),
    ("lifecycle/_core/timed_queue.py", "acquire"): (1, "as above"),
    # -- no wait, or one of the user's own
    ("lifecycle/_core/release.py", "join"): (
        2,
        "no wait: an entry of a timeline takes its place in the line",
    ),
    ("lifecycle/cli/main.py", "sleep"): (1, "a command's own process, between two looks at a file"),
    ("lifecycle/inspection/attach.py", "sleep"): (1, "a command's own process: another one's answer"),
    ("lifecycle/inspection/questions.py", "sleep"): (
        1,
        "no wait: others may run between two shares of a long list",
    ),
    ("lifecycle/fences.py", "select"): (2, "a descriptor of the system, which alone can tell"),
    ("lifecycle/manager/ending.py", "join"): (1, "no wait of its own: `StopToken.join` polls"),
    # -- untimed, in C from end to end, and a put that a weak reference calls: no slice, and no step lost
    ("lifecycle/places/workers.py", "SimpleQueue"): (
        1,
        "the mailbox of the workers, on the way of each death",
    ),
    ("lifecycle/places/loops.py", "SimpleQueue"): (
        1,
        "the inbox of a queue's loop, on the way of each death",
    ),
    ("lifecycle/observe/observers.py", "SimpleQueue"): (
        1,
        "events for the hooks; taken and stored in one step",
    ),
    # -- pauses of threads of the library's own, after an exception that another thread raised in them
    ("lifecycle/places/workers.py", "sleep"): (1, "back-off after an exception"),
    ("lifecycle/observe/maintenance.py", "sleep"): (1, "back-off after an exception"),
    # -- what only looking tells
    ("integrations/gpu/opengl/ring.py", "sleep"): (1, "a device tells nobody that it has done: it is asked"),
    ("integrations/gpu/wgpu/fences.py", "sleep"): (1, "a device tells nobody that it has done: it is asked"),
    ("integrations/cuda/check/driver.py", "join"): (
        4,
        "a program that tries a device: it ends its own threads",
    ),
    ("integrations/cuda/check/driver.py", "Event"): (
        1,
        "a program that tries a device: a thread waits for another",
    ),
    ("integrations/cuda/check/bench.py", "sleep"): (1, "a program that tries a device: it asks again"),
    ("integrations/cuda/check/driver.py", "sleep"): (
        2,
        "a program that tries a device: it gives the device time",
    ),
    ("lifecycle/_core/submissions.py", "sleep"): (3, "a device tells nobody that it has done: it is asked"),
    ("lifecycle/manager/shutdown.py", "sleep"): (1, "a device tells nobody that it has done: it is asked"),
    # -- other processes, which tell nobody here
    ("integrations/across/bridges.py", "Event"): (
        2,
        "the end of a thread of its own, looked at between frames; another in a forked child",
    ),
    ("integrations/across/bridges.py", "join"): (1, "the end of a thread of its own, at close"),
    ("integrations/iceoryx2/_engine.py", "sleep"): (2, "a process that has died, where no system tells"),
    ("integrations/iceoryx2/publisher.py", "join"): (1, "the end of the watcher, at close"),
    ("integrations/iceoryx2/publisher.py", "sleep"): (
        4,
        "a topic that another process removes; a loan; an event that cannot be read",
    ),
    ("integrations/iceoryx2/receiver.py", "sleep"): (
        3,
        "a topic that another process makes; a frame of a thread's",
    ),
    ("integrations/zenoh/receiver.py", "Event"): (1, "frames that zenoh's threads bring"),
    # -- rooms that are to come
    ("integrations/gstreamer/captures/iteration.py", "sleep"): (1, GSTREAMER),
    ("integrations/gstreamer/captures/runs.py", "Event"): (2, GSTREAMER),
    ("integrations/gstreamer/captures/runs.py", "join"): (1, GSTREAMER),
    ("integrations/gstreamer/feeding/feeder.py", "Event"): (1, GSTREAMER),
    ("integrations/gstreamer/feeding/loans.py", "sleep"): (1, GSTREAMER),
    ("integrations/gstreamer/feeding/pool.py", "Event"): (1, GSTREAMER),
    ("integrations/gstreamer/pipelines/bus.py", "join"): (1, GSTREAMER),
    ("integrations/gstreamer/pipelines/callbacks.py", "sleep"): (1, GSTREAMER),
    ("integrations/gstreamer/pipelines/drain.py", "sleep"): (1, GSTREAMER),
    ("integrations/gstreamer/pipelines/pads.py", "TimedQueue"): (1, GSTREAMER),
    ("integrations/gstreamer/sharing/branch.py", "acquire"): (1, GSTREAMER),
    ("integrations/gstreamer/sharing/clients.py", "sleep"): (1, GSTREAMER),
    ("integrations/gstreamer/sharing/tee.py", "join"): (1, "no thread: a core of the tee joins its branches"),
    ("integrations/gstreamer/webrtc.py", "Event"): (1, GSTREAMER),
    ("integrations/gstreamer/webrtc.py", "sleep"): (1, GSTREAMER),
}


def waits_of(tree: ast.AST) -> Iterator[str]:
    """The blocking primitives that a module makes or calls."""
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in awaited:
            continue
        called = node.func
        if isinstance(called, ast.Subscript):
            called = called.value
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        of = called.value if isinstance(called, ast.Attribute) else None
        if name == "Event" and (node.args or node.keywords):
            # One of `lifecycle.events`.
            continue
        if (
            name in MADE
            or name in ("sleep", "select")
            or (name == "acquire" and (node.args or node.keywords))
            or (
                name == "join"
                and not (
                    isinstance(of, (ast.Constant, ast.JoinedStr))
                    or (isinstance(of, ast.Attribute) and of.attr in ("path", "sep"))
                )
            )
        ):
            yield name


def found() -> Counter[tuple[str, str]]:
    """By file and primitive. The tools for tests wait as tests do."""
    counted: Counter[tuple[str, str]] = Counter()
    for package in ("lifecycle", "integrations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if file not in THE_WAIT and not file.startswith("lifecycle/testing/"):
                counted.update((file, name) for name in waits_of(ast.parse(path.read_text())))
    return counted


def test_nothing_waits_but_the_wait() -> None:
    known = {key: number for key, (number, _) in LISTED.items()}
    there = dict(found())
    more = {key: number for key, number in there.items() if number > known.get(key, 0)}
    assert not more, (
        f"wait with lifecycle._core.waiting instead (WaitList, Flag, Reply, Inbox, Line, poll): {more}"
    )
    less = {key: number for key, number in known.items() if there.get(key, 0) < number}
    assert not less, f"these are gone: strike them from LISTED, which only shrinks: {less}"


def test_each_exception_has_its_reason() -> None:
    assert all(reason for _, reason in LISTED.values())
    assert all((ROOT / file).exists() for file, _ in LISTED)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("time.sleep(1)", "sleep"),
        ("runtime.sleep(pause)", "sleep"),
        ("threading.Event()", "Event"),
        ("Condition()", "Condition"),
        ("queue.SimpleQueue()", "SimpleQueue"),
        ("TimedQueue[int]()", "TimedQueue"),
        ("lock.acquire(timeout=1)", "acquire"),
        ("lock.acquire(True, 1)", "acquire"),
        ("thread.join()", "join"),
        ("self.thread.join(left)", "join"),
        ("select.select([f], [], [], 1)", "select"),
        ("_thread.allocate_lock()", "allocate_lock"),
    ],
)
def test_it_is_found(code: str, name: str) -> None:
    assert list(waits_of(ast.parse(code))) == [name]


@pytest.mark.parametrize(
    "code",
    [
        "', '.join(names)",
        "Event('leak', name)",
        "os.path.join(a, b)",
        "lock.acquire()",
        "await asyncio.sleep(1)",
        "waiters.wait(ready)",
    ],
)
def test_it_is_not(code: str) -> None:
    assert not list(waits_of(ast.parse(code)))


def test_the_wait_is_where_it_is_said_to_be() -> None:
    assert all((ROOT / Path(file)).exists() for file in THE_WAIT)
