"""Processes killed at random moments while a recorder runs, and what their files say.

``python -m tests.recorder.killing --kills 300`` kills so many with this interpreter and prints one line of
figures; files in which something is wrong are kept and named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from lifecycle._core.runtime import free_threaded
from lifecycle.recorder import layout
from lifecycle.recorder.errors import RecordingError
from lifecycle.recorder.postmortem import Report, analyse
from lifecycle.recorder.reader import Recording, read
from tests.recorder.scenes import HEAD, QUIET
from tests.support import ROOT

RING = 4096
SIGNALS = {"fault": "Segmentation fault", "abort": "Aborted"}
"""What faulthandler calls the ends that it sees."""
HOWS = ("kill", "fault", "abort", "exit", "start")
"""SIGKILL from outside; a fault, an abort and ``os._exit`` from inside, on a thread beside the four that are
busy; SIGKILL while the interpreter and the recorder start."""

BUSY = (
    HEAD
    + f"""
recorder = lifecycle.recorder.start(sys.argv[1], slots={RING})
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
    threading.Thread(target=work, name=f"busy {{number}}", daemon=True).start()
print("busy", flush=True)
how = sys.argv[2]
if how in ("fault", "abort", "exit"):
    time.sleep(float(sys.argv[3]))
    if how == "fault":
        ctypes.string_at(8, 1)
    elif how == "abort":
        os.abort()
    os._exit(3)
time.sleep(600)
"""
)


def check(recording: Recording) -> None:
    """Everything that was written is true."""
    order: dict[int, list[tuple[int, int, float]]] = {}
    numbers = set()
    for entry in recording.entries:
        assert (entry.number, entry.operation) not in numbers
        numbers.add((entry.number, entry.operation))
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
        order.setdefault(entry.object, []).append((entry.number, entry.operation, entry.time))
    for entries in order.values():
        operations = [operation for _, operation, _ in sorted(entries)]
        if operations != sorted(operations):
            # A door that is shut is written down behind what shut it, with its own time: another thread may
            # have begun the release meanwhile. Nothing else changes places.
            times = {operation: at for _, operation, at in entries}
            assert times[layout.SHUT] <= times.get(layout.BEGINS, times.get(layout.ENDS, 0)), entries
            others = [operation for operation in operations if operation != layout.SHUT]
            assert others == sorted(others), entries
        assert len(operations) == len(set(operations))
    accounted = recording.kept + recording.torn + len(recording.missing)
    assert accounted >= min(recording.written, RING)
    for use in recording.uses:
        assert (use.type, use.kind) == ("busy", "lease")
    assert sum(not use.ended for use in recording.uses) <= 8


def kill(script: Path, path: Path, how: str, dice: random.Random, reads: int) -> Report | None:
    """Start the busy program, have it end in the way of `how`, and check its file. `reads`: how often it is
    read as well while it is being written. None where it was killed before there was a file, or a word in it."""
    delay = dice.uniform(0.0, 0.4)
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), how, str(delay)],
        env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        if how == "start":
            time.sleep(delay * 2)
            process.send_signal(signal.SIGKILL)
        else:
            assert process.stdout.readline() == b"busy\n"
        if how == "kill":
            time.sleep(delay)
            for _ in range(reads):
                check(read(path))
            assert read(path).live
            process.send_signal(signal.SIGKILL)
        process.wait(120)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    try:
        recording = read(path)
    except RecordingError as error:
        assert how == "start", error
        assert not path.exists() or "is empty: its process got no further" in str(error), error
        return None
    check(recording)
    report = analyse(recording)
    assert report.crashed
    assert not recording.live
    assert report.signal == SIGNALS.get(how, "")
    assert str(report)
    return report


def main() -> int:
    """Kill as many as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.recorder.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="lifecycle-kills-"))
    script = folder / "busy.py"
    script.write_text(BUSY, encoding="utf-8")
    sums: collections.Counter[str] = collections.Counter()
    for number in range(arguments.kills):
        how = HOWS[number % len(HOWS)]
        path = folder / f"{how}-{number}.rec"
        sums["killed"] += 1
        try:
            report = kill(script, path, how, dice, reads=0)
        except Exception:
            sums["wrong"] += 1
            print(f"wrong: {path}\n{traceback.format_exc()}", flush=True)
            continue
        path.unlink(missing_ok=True)
        if report is None:
            sums["before the first word"] += 1
            continue
        recording = report.recording
        sums["read"] += 1
        sums["records written"] += recording.written
        sums["records read"] += recording.kept
        sums["torn"] += recording.torn
        sums["missing"] += len(recording.missing)
        sums["address"] += how == "fault" and recording.fault is not None and recording.fault.address == 8
        sums["faults"] += how == "fault"
    if not sums["wrong"]:
        shutil.rmtree(folder)
    version = platform.python_version() + (" without the GIL" if free_threaded else "")
    words = ("killed", "read", "before the first word", "wrong", "records written", "records read", "torn")
    figures = ", ".join(f"{sums[word]:,} {word}" for word in (*words, "missing"))
    print(f"CPython {version}: {figures}; address told for {sums['address']} of {sums['faults']} faults")
    return 1 if sums["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
