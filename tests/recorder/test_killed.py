"""Processes killed at random moments: each file can be read, and nothing in it is wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lifecycle.recorder import layout
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import Recording, read
from tests.recorder.scenes import HEAD, QUIET
from tests.support import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc of Linux")

STORM = int(os.environ.get("LIFECYCLE_STORM", "1"))
KILLS = 1 if STORM == 1 else 34 * STORM
"""Of each of the three kinds: a thousand and some at ``LIFECYCLE_STORM=10``."""
READS = 2

BUSY = (
    HEAD
    + """
recorder = lifecycle.recorder.start(sys.argv[1], slots=4096)
manager = SafetyManager(name="busy")

def work():
    while True:
        # The same in each object: what is written of it can be checked.
        handle = manager.register(
            Native(), "busy", name="always the same", release=nothing, release_on=ANY_THREAD, native=None, size=4711
        )
        with handle.lease():
            pass
        handle.close()

for number in range(4):
    threading.Thread(target=work, name=f"busy {number}", daemon=True).start()
print("busy", flush=True)
how = sys.argv[2]
if how == "fault":
    time.sleep(float(sys.argv[3]))
    ctypes.string_at(8, 1)
elif how == "exit":
    time.sleep(float(sys.argv[3]))
    os._exit(3)
time.sleep(600)
"""
)


def check(recording: Recording) -> None:
    """Everything that was written is true."""
    order: dict[int, list[int]] = {}
    numbers = set()
    for entry in recording.entries:
        assert entry.number not in numbers
        numbers.add(entry.number)
        assert recording.zero - 1 <= entry.time <= recording.end
        assert entry.type == "busy"
        if entry.operation == layout.REGISTER:
            assert (entry.a, entry.b, entry.name, entry.flag) == (0, 4711, "always the same", 2)
            assert entry.site.split(":")[0].endswith("busy.py")
        elif entry.operation in (layout.SHUT, layout.BEGINS):
            assert layout.CAUSES[entry.flag] == "close"
        elif entry.operation == layout.ENDS:
            assert layout.OUTCOMES[entry.flag] == "released"
        else:
            raise AssertionError(entry)
        order.setdefault(entry.object, []).append(entry.operation)
    for operations in order.values():
        assert operations == sorted(operations), "one thread acts on an object, so its records are in order"
        assert len(operations) == len(set(operations))
    whole = [operations for operations in order.values() if len(operations) == 4]
    assert len(whole) > 100
    # A number is missing where its thread was put aside, or killed, between the claim and the write.
    assert len(recording.missing) <= 16
    assert recording.torn <= 4
    assert len(recording.entries) + recording.torn + len(recording.missing) >= min(recording.written, 4096)
    for use in recording.uses:
        assert (use.type, use.kind) == ("busy", "lease")
    assert sum(not use.ended for use in recording.uses) <= 8


@pytest.mark.timeout(120 if STORM == 1 else 400 * STORM)
@pytest.mark.parametrize("how", ["kill", "fault", "exit"])
def test_what_a_killed_process_leaves_is_true(tmp_path: Path, how: str) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY, encoding="utf-8")
    dice = random.Random(7)
    for number in range(1 if how != "kill" and STORM == 1 else KILLS):
        path = tmp_path / f"{how}-{number}.rec"
        delay = dice.uniform(0.1, 0.4)
        process = subprocess.Popen(
            [sys.executable, str(script), str(path), how, str(delay)],
            env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"busy\n"
            if how == "kill":
                time.sleep(delay)
                for _ in range(READS):  # while it is being written
                    check(read(path))
                assert read(path).live
                process.send_signal(signal.SIGKILL)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        recording = read(path)
        check(recording)
        found = analyse(recording)
        assert found.crashed
        assert not recording.live
        assert (found.signal == "Segmentation fault") == (how == "fault")
        assert str(found)
