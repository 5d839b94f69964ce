"""What branches have passed and how they ended, and what was not finished, in the figures of their manager."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from lifecycle import SafetyConfig, SafetyManager
from lifecycle.testing import each_interrupt
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SOURCE = "videotestsrc is-live=true pattern=black ! video/x-raw,format=RGB,width=32,height=24,framerate=100/1 ! tee name=t"


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


class Counts:
    """What a branch has counted."""

    def __init__(self, tripped: str, passed: int, dropped: int = 0, refused: int = 0) -> None:
        self.tripped, self.passed, self.dropped, self.refused = tripped, passed, dropped, refused


def figures(manager: SafetyManager) -> Any:
    (found,) = [component for component in manager.components() if component.kind == "branches"]
    return found.stats()


def test_every_way_to_end_is_counted_once(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, SOURCE) as pipeline:
        # Before it plays: a tee without a branch stops its source, unless it is the library's.
        tee = g.Tee(manager, pipeline, "t")
        pipeline.play()
        assert figures(manager).ended == {"eos": 0, "error": 0, "not_negotiated": 0, "closed": 0}
        assert figures(manager).unfinished == 0
        viewer = tee.attach("fakesink", name="viewer")
        for text in ("identity eos-after=3 ! fakesink", "identity error-after=3 ! fakesink"):
            with tee.attach(text, name="short") as branch:
                with contextlib.suppress(g.PipelineError):
                    assert branch.wait(20)
                # Before it is closed, too.
                assert sum(figures(manager).ended.values()) == 1 + text.startswith("identity error")
        with tee.attach("fakesink", name="short"):
            eventually(lambda: figures(manager).branches["viewer"].results["passed"] > 30)
        was = viewer.stats()
        now = figures(manager)
        assert now.ended == {"eos": 1, "error": 1, "not_negotiated": 0, "closed": 1}
        assert now.branches["viewer"].results["passed"] >= was.passed
        short = now.branches["short"].results["passed"]
        assert short >= 4
        viewer.close()
        passed = figures(manager).branches["viewer"].results
        viewer.close()
        with tee.attach("fakesink", name="viewer") as again:
            eventually(lambda: again.stats().passed > 3)
        assert figures(manager).branches["viewer"].results["passed"] >= passed["passed"] + 4
        assert figures(manager).branches["short"].results["passed"] == short
        with pytest.raises(g.GStreamerError):
            tee.attach("audioconvert ! fakesink", name="refused")
        assert "refused" not in figures(manager).branches
        assert figures(manager).ended == {"eos": 1, "error": 1, "not_negotiated": 0, "closed": 3}


def test_names_beyond_those_that_are_told_apart_are_one(gst: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifecycle.integrations.gstreamer.pipelines import figures as module

    monkeypatch.setattr(module, "NAMES", 3)
    with SafetyManager() as manager:
        of = module.figures_of(manager)
        assert module.figures_of(manager) is of
        branches = [Counts("not-negotiated" * (number == 4), 1, 2, 3) for number in range(10)]
        for number, branch in enumerate(branches):
            of.enter(f"client{number}", branch)
        of.leave(branches[2])
        of.leave(branches[2])
        before = of.stats()
        assert {name: each.results["passed"] for name, each in before.branches.items()} == {
            "client0": 1,
            "client1": 1,
            "client2": 1,
            "_other_": 7,
        }
        threads = [threading.Thread(target=of.leave, args=(branch,)) for branch in branches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        after = of.stats()
        assert after.branches == before.branches
        assert after.ended == {"eos": 0, "error": 0, "not_negotiated": 1, "closed": 9}


def test_an_interrupt_counts_nothing_twice(gst: Any) -> None:
    from lifecycle.integrations.gstreamer.pipelines.figures import figures_of

    with SafetyManager() as manager:
        of = figures_of(manager)

        branch = Counts("eos", 5)

        def come_and_go() -> None:
            try:
                of.enter("one", branch)
            finally:
                of.leave(branch)

        struck = entered = 0
        for each in each_interrupt(come_and_go):
            of.leave(branch)
            struck += 1
            ended = of.stats().ended["eos"]
            assert ended - entered in (0, 1), each.place
            entered = ended
            assert sum(one.results["passed"] for one in of.stats().branches.values()) == 5 * ended
        assert struck > 10
        assert 0 < entered < struck


@pytest.mark.leaves_live
def test_files_that_were_not_finished_are_counted(g: Any, gst: Any, tmp_path: Path) -> None:
    prometheus = pytest.importorskip(
        "lifecycle.integrations.prometheus", reason="needs prometheus_client: `make test` installs it"
    )
    manager = SafetyManager(SafetyConfig(finalizer_timeout=20.0), name="recording")
    pipeline = g.PipelineGuard(
        manager,
        f"{SOURCE} t. ! queue ! identity sleep-time=60000 ! filesink location={tmp_path}/a.raw",
        eos=0.1,
    )
    tee = g.Tee(manager, pipeline, "t")
    pipeline.play()
    slow = "identity sleep-time=60000 ! tee name=s s. ! queue ! filesink location={0}/b.raw s. ! queue ! filesink location={0}/c.raw"
    with pytest.raises(g.GStreamerError):
        tee.attach(slow.format(tmp_path), eos=-1)
    queue = gst.Gst.ElementFactory.make("queue")
    branch = tee.attach(slow.format(tmp_path), name="two", queue=queue, eos=0.1)
    done = tee.attach(f"filesink location={tmp_path}/d.raw", name="done", eos=5.0)
    eventually(lambda: queue.get_property("current-level-buffers") > 20 and done.stats().passed)
    done.close()
    assert figures(manager).unfinished == 0
    branch.close()
    assert figures(manager).unfinished == 2
    pipeline.close()
    assert figures(manager).unfinished == 3
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in prometheus.LifecycleCollector(manager).collect()
        for sample in family.samples
    }
    at = ("manager", "recording")
    assert samples["lifecycle_unfinished_files_total", at] == 3
    assert samples["lifecycle_branches_ended_total", at, ("reason", "closed")] == 2
    passed = samples["lifecycle_branch_frames_total", ("branch", "done"), at, ("result", "passed")]
    assert passed >= 1
    manager.close()
