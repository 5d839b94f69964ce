"""The table of what crashes, corrupts, freezes or leaks in plain Python on GStreamer: each row's mistake
beside its guarded counterpart.

The mistakes themselves are made in `tests.gstreamer.mistakes`, in processes that may die of them. All guarded
counterparts run in one process; raw ones that are known to survive share one as well. Of those that need a
process each a few are drawn, the same for one ``LIFECYCLE_SEED``: they are GStreamer's, not ours.
``LIFECYCLE_STORM=10`` makes all of them.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests import support
from tests.core.adversary import STORM

pytestmark = pytest.mark.needs("gstreamer", "numpy")

TRAPS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_PERTURB_": "165", "PYTHONFAULTHANDLER": "0"}
DIES = r"died of -(11|6|7|5)"

FATAL = {
    "array-kept-after-unmap": DIES,
    "fd-memory-kept-after-unmap": DIES,
    "another-thread-reads-while-the-first-unmaps": DIES,
    "map-info-memory-after-unmap": rf"{DIES}|\d{{15,}}",  # or what stands in freed memory
    "unmapped-twice": rf"{DIES}|CRITICAL",
    "write-through-a-read-mapping": DIES,
    "fd-truncated-under-a-mapping": r"died of -7",
    "wrapped-bytes-not-kept-alive": DIES,
    "unref-by-hand": rf"{DIES}|CRITICAL",
    "a-playing-pipeline-dropped": rf"{DIES}|([5-9]|[1-9]\d+) threads",
    "a-playing-element-removed": rf"{DIES}|CRITICAL",
    "null-before-unlink": "frozen, no error",
    "null-from-new-sample": "deadlock",
    "null-under-a-lock-that-a-probe-wants": "deadlock",
    "live-objects-of-the-leaks-tracer": DIES,
    "exit-while-playing": DIES,
}
"""What a raw row comes to, for those that need a process each."""

LIVING = {
    "the-pool-recycles-the-buffer": r"changed after \d+ frames",
    "never-unmapped": "3 memories leak",
    "a-write-view-kept-after-push": "edits what is downstream",
    "the-last-branch-unlinked": "not-linked",
    "a-request-pad-released-twice": "CRITICAL",
    "an-exception-in-new-sample": "only sys.excepthook hears",
    "an-exception-in-a-probe": "nothing arrives, no error",
    "raising-before-the-pull": "stalls",
    "samples-in-a-cycle": r"[2-9]\d samples wait",
    "a-pooled-buffer-released-by-hand": "CRITICAL",
    "samples-of-a-bounded-pool-kept": r"frozen after \d frames, no error",
    "fork-after-init": "the child hangs",
    "an-appsink-that-nobody-drains": "frozen",
}
"""What a raw row comes to, for those whose process goes on."""

BY_CHANCE = {
    "unmapped-twice",
    "exit-while-playing",
    "map-info-memory-after-unmap",
    "another-thread-reads-while-the-first-unmaps",
    "live-objects-of-the-leaks-tracer",
    "a-playing-pipeline-dropped",
}
"""Raw rows that end well now and then, or on some versions: undefined behaviour need not show."""


DRAWN = 4
"""How many of the fatal raw rows are made."""


def drawn() -> list[str]:
    """The fatal raw rows of this run."""
    if STORM >= 10:
        return list(FATAL)
    return random.Random(os.environ.get("LIFECYCLE_SEED", "1")).sample(list(FATAL), DRAWN)


@cache
def begun(*arguments: str) -> subprocess.Popen[str]:
    """They run from here on. Both long ones wait more than they work, so they do it side by side."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gstreamer.mistakes", *arguments],
        cwd=support.ROOT,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), **TRAPS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


GUARDED_ROWS, LIVING_ROWS = ("guarded", "all"), ("raw", *LIVING)


@pytest.fixture(scope="module", autouse=True)
def side_by_side() -> Iterator[None]:
    """None of the processes outlives its tests."""
    both = [begun(*GUARDED_ROWS), begun(*LIVING_ROWS)]
    yield
    for process in both:
        with process:
            process.kill()


@cache
def mistakes(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Run them; the exit status, the outcome of each row, and what was said beside."""
    process = begun(*arguments)
    out, err = process.communicate(timeout=100)
    outcomes: dict[str, str] = {}
    for part in re.split(rf"^(?=(?:{'|'.join((*FATAL, *LIVING))}): )", out, flags=re.MULTILINE):
        name, _, outcome = part.partition(": ")
        outcomes[name] = outcome.strip()
    return process.returncode, outcomes, err


@pytest.mark.needs("gst-overrides")
@pytest.mark.parametrize("row", [*drawn(), *LIVING])
def test_raw(row: str) -> None:
    """The trap is set: in plain Python the mistake ends as noted, or this version is said to survive it."""
    if row in LIVING:
        _, outcomes, said = mistakes(*LIVING_ROWS)
        outcome = outcomes.get(row, said)
    else:
        rc, outcomes, said = mistakes("raw", row)
        outcome = f"died of {rc}" if rc < 0 else outcomes.get(row, said)
    if not re.search({**FATAL, **LIVING}[row], outcome) and row in BY_CHANCE:
        pytest.skip(f"here and now it ends well: {outcome}")
    assert re.search({**FATAL, **LIVING}[row], outcome), outcome


@pytest.mark.parametrize("row", [*FATAL, *LIVING])
def test_guarded(row: str) -> None:
    """The same thing done through the integration is safe, or answered with an error that says what to do."""
    rc, outcomes, said = mistakes(*GUARDED_ROWS)
    assert outcomes.get(row) == "safe", outcomes.get(row, said)
    assert rc == 0, said


def test_the_rows_are_those_of_the_table() -> None:
    done = support.run_python(
        "from tests.gstreamer import mistakes\nassert mistakes.RAW.keys() == mistakes.GUARDED.keys()\nprint(*mistakes.RAW)"
    )
    assert set(done.check().split()) == {*FATAL, *LIVING}
