"""Forked and spawned processes: a child never writes into its parent's file."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.recorder.scenes import play, recordings

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc of Linux")

CHILDREN = """
import faulthandler, warnings
warnings.simplefilter("ignore")
recorder = lifecycle.recorder.active()
manager = SafetyManager(name="parent")
kept = manager.register(Native(), "parent's", release=nothing, release_on=ANY_THREAD)
lease = kept.lease()
stop = threading.Event()

def work():
    while not stop.is_set():
        manager.register(Native(), "parent's", release=nothing, release_on=ANY_THREAD).close()
        time.sleep(0)

busy = threading.Thread(target=work)
busy.start()
children = []
for number in range(8):
    pid = os.fork()
    if not pid:
        lease.close()
        recorder.note("child's")
        with SafetyManager(name="child") as made:
            for _ in range(50):
                with made.register(Native(), "child's", release=nothing, release_on=ANY_THREAD) as native:
                    pass
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number % 2:
            os._exit(0)
        sys.exit(0)
    children.append(pid)
for pid in children:
    print(os.waitpid(pid, 0)[1])
stop.set()
busy.join()
lease.close()
kept.close()
"""


@pytest.mark.parametrize("own", [False, True], ids=["one file", "a file each"])
def test_children_write_nothing_into_the_parents_file(tmp_path: Path, own: bool) -> None:
    name = str(tmp_path / ("family-{pid}.rec" if own else "family.rec"))
    done = play(tmp_path, CHILDREN, env={"LIFECYCLE_RECORDER": name})
    statuses = [int(line) for line in done.check().split()]
    assert statuses == [0, 0, 0, signal.SIGSEGV, 0, 0, 0, 0], done.stderr
    parent, *children = recordings(tmp_path)
    assert parent.clean
    assert not parent.child
    assert {entry.type for entry in parent.entries} <= {"parent's"}
    assert not parent.missing
    assert not parent.torn
    assert not parent.fault_text
    assert len(children) == (8 if own else 0)
    for child in children:
        assert child.child
        assert child.parent == parent.pid
        assert {entry.type for entry in child.entries} == {"child's"}
        assert len(child.entries) == 200
    # What ends by `os._exit` has no clean end; what crashed has its text.
    assert sum(child.clean for child in children) == (4 if own else 0)
    assert sum("Segmentation fault" in child.fault_text for child in children) == own


def test_a_child_without_a_clean_end_is_not_announced_and_a_crash_is(tmp_path: Path) -> None:
    play(tmp_path, CHILDREN).check()
    done = play(tmp_path, "SafetyManager().close()")
    assert done.stderr.count("lifecycle.previous_run") == 1
    assert "Segmentation fault" in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_have_files_of_their_own(tmp_path: Path, method: str) -> None:
    done = play(
        tmp_path,
        f"""
        import multiprocessing, warnings
        warnings.simplefilter("ignore")

        def child():
            with SafetyManager(name="child") as manager:
                manager.register(Native(), "child's", release=nothing, release_on=ANY_THREAD).close()

        if __name__ == "__main__":
            process = multiprocessing.get_context({method!r}).Process(target=child)
            process.start()
            process.join()
            print(process.exitcode)
        """,
    )
    assert done.check() == "0\n"
    parent, child = recordings(tmp_path)
    assert parent.clean
    assert child.clean
    assert not parent.entries
    assert {entry.type for entry in child.entries} == {"child's"}
    assert child.parent == parent.pid
