"""Scenes of the core: manager, handles, leases, queues, finalizers, stopping, fences."""

from __future__ import annotations

import contextlib
import copy
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    DROPPED,
    AccessPanicError,
    EventFence,
    FutureFence,
    HeldError,
    LifecycleError,
    NotReleased,
    Profiler,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    Timeline,
    never_wait,
)
from lifecycle._core import runtime
from lifecycle._core.fence import SIGNALLED, ask
from lifecycle.fences import ProcessFence, fence_of_block
from tests.adversaries.stage import PLACES, Native, Stage, Table
from tests.core.adversary import TRACING_KEEPS_LOCALS

TABLE = Table()
scene = TABLE.scene

COUNTS = not TRACING_KEEPS_LOCALS
"""On 3.10 a frame that is traced holds its locals once more, so that whoever counts holders counts those."""


# -- manager: registering ------------------------------------------------------------------------------------


@scene("SafetyManager.register", places=PLACES)
def register(stage: Stage) -> None:
    stage.keep(stage.register(name="n", native=len(stage.seen), size=10, retry_on=(OSError,)))


def limited(stage: Stage) -> None:
    stage.manager.policy("native", max_live=50, max_bytes=10_000)


@scene("SafetyManager.register", prepare=limited)
def register_limited(stage: Stage) -> None:
    stage.keep(stage.register(size=10))


@scene("SafetyManager.register")
def register_child(stage: Stage) -> None:
    stage.keep(stage.register(parent=stage.handle))


@scene("SafetyManager.register", places=PLACES)
def register_kept(stage: Stage) -> None:
    number = stage.register(keep=True).id
    stage.manager.unregister(number, timeout=0)


@scene("SafetyManager.register")
def register_refused(stage: Stage) -> None:
    """A second owner of one native: the object stays the caller's, who releases it."""
    first = stage.keep(stage.register(native=7))
    native = Native()
    try:
        stage.keep(stage.manager.register(native, "native", release=Native.free, native=7))
    except LifecycleError:
        assert not native.released
    first.close(timeout=0)


@scene("SafetyManager.registrar")
def registrar(stage: Stage) -> None:
    make = stage.manager.registrar("native", release=Native.free, release_on=stage.where)
    stage.keep(make(stage.native(), 1, 2))


@scene("SafetyManager.factory", places=PLACES)
def factory(stage: Stage) -> None:
    make = stage.manager.factory(stage.native, "native", release=Native.free, release_on=stage.where, limit=1)
    stage.keep(make()).close(timeout=0)


@scene(
    "SafetyManager.observe",
    "ObservedHandle.state",
    "ObservedHandle.valid",
    "ObservedHandle.lease",
    "ObservedLease.__enter__",
    "ObservedLease.__exit__",
    "ObservedLease.close",
    "Lease.take_times",
)
def observe(stage: Stage) -> None:
    watched = stage.props.watched = Native()
    handle = stage.keep(stage.manager.observe(watched, "observed"))
    with handle.lease() as native:
        native.use()
    assert handle.state == "valid"
    assert handle.valid


@scene(
    "SafetyManager.observe",
    "ObservedHandle.view",
    "ObservedHandle.array",
    "ObservedHandle.exclusive",
    "ObservedHandle.detach",
)
def observe_more(stage: Stage) -> None:
    watched = stage.props.watched = Native()
    handle = stage.keep(stage.manager.observe(watched, "observed", alive=Native.use))
    stage.props.view = handle.view(id(watched), 8)
    with contextlib.suppress(LifecycleError):
        handle.array(memoryview(b"no array"))
    for refused in (handle.exclusive, handle.detach):
        with contextlib.suppress(LifecycleError):
            refused()
    stage.props.view = None


@scene("SafetyManager.observe", "ObservedHandle.state", "SafetyManager.is_valid")
def observe_until_its_owner_ends_it(stage: Stage) -> None:
    watched = stage.props.watched = Native()
    handle = stage.keep(stage.manager.observe(watched, "observed", alive=lambda native: not native.released))
    watched.free()
    answers = stage.manager.is_valid(handle.id), stage.manager.is_valid(handle), handle.valid, handle.state
    assert answers[:3] == (False, False, False), answers


@scene("SafetyManager.observe", "ObservedHandle.state")
def observe_until_it_is_gone(stage: Stage) -> None:
    stage.props.watched = Native()
    handle = stage.keep(stage.manager.observe(stage.props.watched, "observed"))
    stage.props.watched = None
    assert handle.state != "valid"


# -- manager: access and ending ------------------------------------------------------------------------------


@scene("SafetyManager.safe_access")
def safe_access(stage: Stage) -> None:
    stage.manager.safe_access(stage.handle, Native.use)
    stage.manager.safe_access(stage.handle.id, Native.use)


@scene("SafetyManager.safe_access", "AccessBlock.__enter__", "AccessBlock.__exit__", "AccessBlock.__init__")
def safe_access_block(stage: Stage) -> None:
    with stage.manager.safe_access(stage.handle) as native:
        native.use()


def fails(native: Native) -> None:
    raise ZeroDivisionError


@scene("SafetyManager.safe_access", places=PLACES)
def panic(stage: Stage) -> None:
    with contextlib.suppress(AccessPanicError):
        stage.manager.safe_access(stage.handle, fails)


@scene("SafetyManager.safe_access", "SafetyManager.policy")
def declared_error(stage: Stage) -> None:
    stage.manager.policy("native", errors=ZeroDivisionError)
    with contextlib.suppress(ZeroDivisionError):
        stage.manager.safe_access(stage.handle, fails)
    stage.manager.policy("native", errors=None)


@scene("SafetyManager.run_due", places=PLACES)
def run_due(stage: Stage) -> None:
    assert stage.manager.run_due() in range(1000)
    stage.handle.close(timeout=0)
    assert stage.manager.run_due() in range(1000)


@scene("SafetyManager.policy")
def policy(stage: Stage) -> None:
    stage.manager.policy(
        "native", max_live=100, max_bytes=10_000, max_age=1000, validate=Native.use, fork="keep"
    )
    stage.keep(stage.register(size=10))
    with stage.things[-1].lease() as native:
        native.use()
    stage.manager.policy("native", max_live=None, max_bytes=None, max_age=None, validate=None, fork="forget")


@scene("SafetyManager.unregister", places=PLACES)
def unregister(stage: Stage) -> None:
    stage.manager.unregister(stage.handle.id, timeout=0)
    stage.manager.unregister(stage.handle, timeout=0)


@scene("SafetyManager.invalidate", "SafetyManager.is_valid", places=PLACES)
def invalidate(stage: Stage) -> None:
    assert stage.manager.is_valid(stage.handle) in (True, False)
    stage.manager.invalidate(stage.handle, "because")
    assert not stage.manager.is_valid(stage.handle.id)


@scene("SafetyManager.add_cleanup", places=PLACES)
def add_cleanup(stage: Stage) -> None:
    stage.manager.add_cleanup(stage.handle, list)
    stage.handle.close(timeout=0)


@scene(
    "SafetyManager.set_safe_finalizer",
    "SafeFinalizer.__init__",
    "SafeFinalizer.alive",
    "SafeFinalizer.state",
    "SafeFinalizer.__repr__",
    lets_go=True,
)
def safe_finalizer(stage: Stage) -> None:
    stage.props.target = Native()
    finalizer = stage.manager.set_safe_finalizer(stage.props.target, stage.ran.append, 1)
    assert finalizer.alive
    assert finalizer.state == "valid"
    repr(finalizer)
    stage.props.target = None


@scene("SafetyManager.set_safe_finalizer", "SafeFinalizer.cancel", lets_go=True)
def safe_finalizer_cancelled(stage: Stage) -> None:
    stage.props.target = Native()
    stage.manager.set_safe_finalizer(stage.props.target, stage.ran.append, 1).cancel()
    stage.props.target = None


# -- manager: knowing ----------------------------------------------------------------------------------------


class Component:
    """What appears in metrics."""

    kind = "component"
    name = "component"

    def stats(self) -> int:
        return 1


@scene(
    "SafetyManager.name",
    "SafetyManager.config",
    "SafetyManager.closed",
    "SafetyManager.stopping",
    "SafetyManager.__repr__",
    "SafetyManager.health",
    "SafetyManager.objects",
    "SafetyManager.stats",
    "SafetyManager.add_component",
    "SafetyManager.components",
)
def look_around(stage: Stage) -> None:
    manager = stage.manager
    assert (manager.name, manager.config.finalizer_timeout, manager.closed) == ("stage", 60.0, False)
    assert not manager.stopping.is_set
    repr(manager)
    assert manager.health().ok
    manager.objects()
    manager.stats()
    stage.props.component = Component()
    manager.add_component(stage.props.component)
    manager.components()


@scene(
    "SafetyManager.add_observer",
    "SafetyManager.add_leak_hook",
    "SafetyManager.on_close",
    "StopToken.on_stop",
    "SafetyManager.report",
    "SafetyManager.report_error",
    "SafetyManager.report_panic",
)
def hooks(stage: Stage) -> None:
    manager = stage.manager
    stage.keep(manager.add_observer(stage.ran.append))
    stage.keep(manager.add_leak_hook(stage.ran.append))
    stage.keep(manager.on_close(list))
    manager.report("pressure", bytes=1)
    manager.report_error("stage", ZeroDivisionError(), errors=ZeroDivisionError)
    manager.report_panic("stage", ZeroDivisionError())


@scene("SafetyManager.add_check", "SafetyManager.health")
def what_health_asks(stage: Stage) -> None:
    stage.keep(stage.manager.add_check(lambda: "it burns"))
    assert stage.manager.health().problems in (("it burns",), ())


@scene("SafetyManager.close_on")
def at_a_signal(stage: Stage) -> None:
    stage.keep(stage.manager.close_on(signal.SIGTERM))
    with contextlib.suppress(LifecycleError):
        stage.manager.close_on()


@scene("SafetyManager.add_observer", "SafetyManager.add_leak_hook")
def hooks_taken_back_twice(stage: Stage) -> None:
    """Of two equal hooks each is taken back by its own function, however often that is called."""
    for add, table in (
        (stage.manager.add_observer, stage.manager._maintenance.observer.hooks),
        (stage.manager.add_leak_hook, stage.manager._maintenance.observer.leak_hooks),
    ):
        first = stage.keep(add(stage.ran.append))
        second = stage.keep(add(stage.ran.append))
        number = len(table)
        first()
        first()
        assert len(table) == number - 1
        second()


# -- handles -------------------------------------------------------------------------------------------------


@scene("Handle.close", places=PLACES)
def close(stage: Stage) -> None:
    stage.handle.close()


@scene("Handle.close", places=PLACES)
def close_and_wait(stage: Stage) -> None:
    stage.handle.close(timeout=0.001)


class Wrapper:
    """Frees its native in its own deallocation."""

    def __init__(self, native: Native) -> None:
        self.native = native

    def __del__(self) -> None:
        # Without the GIL the object of another thread dies there, or in any collection.
        self.native.free()
        self.native.in_collector = self.native.in_collector and not runtime.free_threaded


@scene("Handle.close", places=PLACES, lets_go=True, meddle=False)
def close_what_frees_itself(stage: Stage) -> None:
    """Once with another reference to it, which goes after the close."""
    box = [Wrapper(stage.native())]
    try:
        stage.keep(stage.manager.register(box[0], "native", release=DROPPED, release_on=stage.where)).close()
    finally:
        box.clear()
    stage.keep(
        stage.manager.register(Wrapper(stage.native()), "native", release=DROPPED, release_on=stage.where)
    ).close(timeout=0)


@scene("Handle.close", interrupts=COUNTS, lines=COUNTS)
def close_unless_held(stage: Stage) -> None:
    with stage.handle.lease(), contextlib.suppress(HeldError):
        stage.handle.close(held="refuse")
    stage.handle.close(held="refuse")


@scene("Handle.close", "EventFence.__init__", places=PLACES)
def close_after_a_fence(stage: Stage) -> None:
    event = stage.props.event = threading.Event()
    stage.keep(event.set)
    stage.handle.close(after=EventFence(event), timeout=0)
    event.set()


@scene("Handle.release_after", "Timeline.__init__", "Timeline.__repr__", places=PLACES)
def release_after(stage: Stage) -> None:
    stage.props.fence = SteppingFence()
    stage.keep(stage.props.fence.finish)
    repr(stage.props.fence.timeline)
    stage.handle.release_after(stage.props.fence)
    stage.handle.close(timeout=0)
    stage.props.fence.done = True


class SteppingFence:
    """A fence of a timeline of its own."""

    def __init__(self) -> None:
        self.done = False
        self.timeline = Timeline("steps")

    def finish(self) -> None:
        self.done = True

    def signalled(self) -> bool:
        return self.done


class Device:
    """A timeline whose device is done when it is told to be."""

    def __init__(self) -> None:
        self.done = False
        self.timeline = Timeline("device", fence=self.fence)

    def fence(self) -> Device:
        return self

    def signalled(self) -> bool:
        return self.done

    def finish(self) -> None:
        """Done for good, and what a block that was cut short left is ended too."""
        self.done = True
        self.timeline.poll()
        self.timeline.poll()


@scene(
    "Handle.shares",
    "Submission.__enter__",
    "Submission.__repr__",
    "Submission.done",
    "Submission.use",
    "Timeline.__repr__",
    "Timeline.in_flight",
    "Timeline.oldest",
    "Timeline.poll",
    "Timeline.poll_from",
    "Timeline.signalled",
    "Timeline.stats",
    "Timeline.submission",
    "Timeline.wait",
    places=PLACES,
)
def submission(stage: Stage) -> None:
    device = stage.props.device = Device()
    stage.keep(device.finish)
    line = device.timeline
    with line.submission() as work:
        work.use(stage.handle)
        repr(work), repr(line)
    assert line.in_flight <= 1
    stage.handle.shares, line.oldest, line.signalled, line.lost_submissions
    assert line.stats().in_flight <= 1
    stage.handle.close(timeout=0.02)
    line.poll()
    device.done = True
    line.wait(1)
    assert work.done


@scene("Timeline.lost", "Timeline.lost_submissions", "Timeline.stalled", "Timeline.used")
def lost_submission(stage: Stage) -> None:
    device = stage.props.device = Device()
    stage.keep(device.finish)
    stage.handle.close()
    with device.timeline.submission():
        pass
    device.timeline.stalled(60.0, None)
    device.timeline.used()
    device.timeline.lost("unplugged")
    assert device.timeline.lost_submissions <= 1


@scene(
    "Handle.__enter__", "Handle.__exit__", "Handle.lease", "Lease.__enter__", "Lease.__exit__", places=PLACES
)
def with_handle(stage: Stage) -> None:
    with stage.handle as handle, handle.lease() as native:
        native.use()


@scene("Handle.lease", "Lease.close", "Lease.__repr__")
def lease(stage: Stage) -> None:
    made = stage.keep(stage.handle.lease(timeout=0.001))
    repr(made)
    made.close()
    made.close()


@scene("Handle.view", places=PLACES)
def view(stage: Stage) -> None:
    stage.props.view = stage.handle.view(id(stage), 8)[2:4]
    stage.handle.close(timeout=0)
    stage.props.view = None


@scene("Handle.view", "Handle.array", places=PLACES)
def views_of_buffers(stage: Stage) -> None:
    """Of what has the buffer protocol, and of arrays."""
    memory = bytearray(8)
    stage.props.view = stage.handle.view(memory)[2:4]
    try:
        import numpy
    except ImportError:
        with contextlib.suppress(LifecycleError):
            stage.handle.array(memory)
    else:
        stage.props.array = stage.handle.array(numpy.zeros(3))[1:]
    stage.handle.close(timeout=0)
    stage.props.view = stage.props.array = None


@scene("SafetyManager.holders")
def named_holders(stage: Stage) -> None:
    """Looks through the heap: a scene of its own, at one place."""
    stage.manager.holders(stage.handle.id)


@scene("Handle.reparent", "SafetyManager.handle", places=PLACES)
def other_parents(stage: Stage) -> None:
    """Each object of the stage gets another parent, or several, or none."""
    parent = stage.handle
    child = stage.keep(stage.register())
    other = stage.keep(stage.register())
    child.reparent(parent)
    child.reparent((parent, other))
    with contextlib.suppress(LifecycleError):
        parent.reparent(child)
    stage.keep(stage.manager.handle(child.id)).close()
    child.reparent(None)
    child.reparent(other)
    for handle in (parent, other, child):
        handle.close(timeout=0)


@scene("SafetyManager.callback", "SafetyManager.register")
def called_by_c(stage: Stage) -> None:
    """A function that C calls, kept alive by what calls it."""
    import ctypes

    thunk = stage.manager.callback(lambda number: 1 // number, ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int))
    stage.keep(stage.register(keep_alive=(thunk,), retry_for=1.0, release="free"))


@scene(
    "Handle.exclusive",
    "ExclusiveLease.__enter__",
    "ExclusiveLease.__exit__",
    "ExclusiveLease.__repr__",
    interrupts=COUNTS,
    lines=COUNTS,
)
def exclusive(stage: Stage) -> None:
    with stage.handle.exclusive(timeout=0.001) as native:
        native.use()
        with contextlib.suppress(LifecycleError):
            stage.handle.lease()
    repr(stage.handle.exclusive())


@scene("Handle.exclusive", "ExclusiveLease.close")
def exclusive_closed(stage: Stage) -> None:
    stage.props.exclusive = stage.handle.exclusive(timeout=0)
    stage.props.exclusive.close()
    stage.props.exclusive = None


@scene("Handle.share", "Handle.close", places=PLACES)
def share(stage: Stage) -> None:
    stage.keep(stage.handle.share()).close()
    stage.keep(stage.handle.share())
    stage.handle.close()
    stage.things[-1].close(timeout=0)


@scene("Handle.weak", "WeakHandle.__call__", "WeakHandle.__repr__")
def weak(stage: Stage) -> None:
    made = stage.handle.weak()
    repr(made)
    stage.keep(made() or list)
    stage.handle.close()


@scene(drops=1, places=PLACES, interrupts=False, lines=False)
def drop(stage: Stage) -> None:
    """The handle goes unclosed."""
    if len(stage.things) == 1:
        stage.things.pop()


@scene("Handle.detach", interrupts=False, lines=COUNTS, places=PLACES)
def detach(stage: Stage) -> None:
    """Not interrupted here: an interrupt as it returns is the caller's loss, which the stage cannot tell from
    the library's."""
    native = stage.natives[0]
    try:
        taken = stage.handle.detach(timeout=0.001)
    except LifecycleError:
        return
    assert taken is native
    stage.detached.append(native)


@scene(
    "Handle.id",
    "Handle.type_name",
    "Handle.name",
    "Handle.native",
    "Handle.size",
    "Handle.state",
    "Handle.valid",
    "Handle.__repr__",
    "Handle.__copy__",
    "Handle.__deepcopy__",
    "Handle.__reduce_ex__",
)
def facts(stage: Stage) -> None:
    handle = stage.handle
    assert (handle.type_name, handle.name, handle.native, handle.size) == ("native", None, None, 0)
    assert handle.id > 0
    assert handle.valid in (True, False)
    assert handle.state
    repr(handle)
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with contextlib.suppress(TypeError):
            refused(handle)


@scene(
    "Handle.holders",
    "Handle.expect_holders",
    interrupts=False,
    lines=COUNTS,
    meddle=False,
)
def holders(stage: Stage) -> None:
    """Looks through the whole heap, with thousands of lines: no interrupts."""
    with stage.handle.lease():
        stage.handle.holders()
        with contextlib.suppress(HeldError):
            stage.handle.expect_holders(leases=1, timeout=0)


# -- releases that say something -----------------------------------------------------------------------------


class Refusing(Native):
    """Says `NotReleased` once."""

    def __init__(self) -> None:
        super().__init__()
        self.said = False

    def free(self) -> None:
        if not self.said:
            self.said = True
            raise NotReleased("not yet")
        super().free()


@scene("Handle.close", places=PLACES)
def close_and_retry(stage: Stage) -> None:
    native = Refusing()
    stage.natives.append(native)
    stage.keep(stage.manager.register(native, "native", release=Refusing.free, release_on=stage.where)).close(
        timeout=0
    )


# -- queues --------------------------------------------------------------------------------------------------


@scene("ReleaseQueue.drain", "ReleaseQueue.backlog", places=("queue",))
def drain(stage: Stage) -> None:
    for _ in range(2):
        stage.keep(stage.register()).close()
    stage.handle.close()
    stage.queue.drain(1)
    assert stage.queue.backlog >= 0
    stage.queue.drain()


@scene(
    "ReleaseQueue.__init__",
    "ReleaseQueue.__repr__",
    "ReleaseQueue.last_drain",
    "ReleaseQueue.oldest",
    "ReleaseQueue.orphaned",
    "ReleaseQueue.problem",
)
def queue_facts(stage: Stage) -> None:
    queue = ReleaseQueue("another")
    stage.queues.append(queue)
    stage.keep(stage.register(release_on=queue)).close()
    repr(queue)
    assert queue.last_drain >= 0.0
    assert queue.oldest() >= 0.0
    assert queue.orphaned == 0
    assert queue.problem == ""


@scene("ReleaseQueue.lost", "ReleaseQueue.sweep_lost")
def lose(stage: Stage) -> None:
    queue = stage.props.queue = ReleaseQueue("another", thread="current")
    native = Native()
    stage.keep(lambda: queue.lost("once more"))
    stage.keep(stage.manager.register(native, "native", release=Native.free, release_on=queue))
    queue.lost("its world is gone")
    queue.sweep_lost()
    assert not native.released


def posted(stage: Stage) -> None:
    """A queue with a loop, whose turns the scene takes."""
    stage.props.turns = []
    stage.props.belled = ReleaseQueue("belled", post=stage.props.turns.append)
    stage.queues.append(stage.props.belled)


@scene("ReleaseQueue.drain", "ReleaseQueue.look_after_bell", prepare=posted)
def queue_of_a_loop(stage: Stage) -> None:
    stage.keep(stage.register(release_on=stage.props.belled)).close()
    for turn in list(stage.props.turns):
        turn()
    stage.props.belled.look_after_bell()
    stage.props.belled.drain()


# -- the end -------------------------------------------------------------------------------------------------

OTHER = SafetyConfig(finalizer_timeout=60.0, shutdown_timeout=60.0)


def another_manager(stage: Stage) -> None:
    other = stage.props.other = SafetyManager(OTHER, name="other")
    stage.keep(other.close)
    stage.keep(other.on_close(list))
    for place in (ANY_THREAD, BACKGROUND):
        stage.keep(other.register(stage.native(), "other", release=Native.free, release_on=place))


@scene(
    "SafetyManager.close",
    "SafetyManager.closed",
    "StopToken.call_back",
    "StopToken.join",
    prepare=another_manager,
)
def close_a_manager(stage: Stage) -> None:
    stage.props.other.close()
    assert stage.props.other.closed


@scene("SafetyManager.__init__", "SafetyManager.__enter__", "SafetyManager.__exit__", "StopToken.__init__")
def a_whole_manager(stage: Stage) -> None:
    with SafetyManager(OTHER, name="whole") as whole:
        stage.keep(whole.close)
        stage.keep(whole.register(stage.native(), "other", release=Native.free)).close()


@scene(
    "StopToken.is_set",
    "StopToken.__bool__",
    "StopToken.__repr__",
    "StopToken.attach",
    "StopToken.check",
    "StopToken.wait",
    "StopToken.after_fork",
    "Uncopied.__reduce_ex__",
    prepare=another_manager,
)
def stopping(stage: Stage) -> None:
    token = stage.props.other.stopping
    assert bool(token) == token.is_set
    repr(token)
    token.attach()
    with contextlib.suppress(LifecycleError):
        token.check()
    token.wait(0)
    token.after_fork()
    with contextlib.suppress(TypeError):
        copy.copy(token)


@scene("never_wait")
def unwaiting(stage: Stage) -> None:
    with never_wait():
        stage.handle.close()


# -- fences --------------------------------------------------------------------------------------------------


@scene(
    "ask",
    "fence_of_block",
    "EventFence.__repr__",
    "EventFence.signalled",
    "EventFence.wait",
    "FutureFence.__init__",
    "FutureFence.signalled",
    "FutureFence.__repr__",
    "Answer.__repr__",
)
def fences(stage: Stage) -> None:
    with fence_of_block() as fence:
        stage.handle.close(after=fence)
        repr(fence)
        fence.wait(0)
        fence.signalled()
    future: Future[None] = Future()
    stage.keep(future.cancel)
    other = FutureFence(future)
    stage.keep(stage.register()).close(after=other)
    future.set_result(None)
    repr(other)
    repr(ask(other, "poll", 0.0))
    assert ask(other, "wait", 0.0) is SIGNALLED


def ended_process(stage: Stage) -> None:
    process = stage.props.process = subprocess.Popen([sys.executable, "-S", "-c", ""], stdin=subprocess.PIPE)
    process.stdin.close()  # type: ignore[union-attr]
    stage.keep(process.wait)


@scene(
    "ProcessFence.__init__",
    "ProcessFence.signalled",
    "ProcessFence.wait",
    "ProcessFence.delete",
    "ProcessFence.__repr__",
    prepare=ended_process,
    meddle=False,
)
def process_fence(stage: Stage) -> None:
    fence = ProcessFence(stage.props.process)
    repr(fence)
    stage.handle.close(after=fence)
    fence.wait(5)
    fence.signalled()
    fence.delete()


@scene("ProcessFence.__init__", prepare=ended_process, meddle=False)
def process_fence_dropped(stage: Stage) -> None:
    ProcessFence(stage.props.process)


# -- profiling -----------------------------------------------------------------------------------------------


@scene(
    "Profiler.__init__",
    "Profiler.__enter__",
    "Profiler.__exit__",
    "Profiler.start",
    "Profiler.stop",
    "Profiler.running",
    "Profiler.report",
    "Profiler.table",
    "Profiler.lease",
    "Profiler.call",
    "Profiler.note",
    "_TimedLease.__exit__",
    "_TimedLease.close",
    "_TimedLease.__del__",
    "_TimedLease.take_times",
    "ObservedLease.__del__",
)
def profile(stage: Stage) -> None:
    with stage.keep(Profiler(stage.manager)) as profiler:
        with stage.handle.lease() as native:
            native.use()
        stage.manager.safe_access(stage.handle, Native.use)
        watched = stage.props.watched = Native()
        with stage.keep(stage.manager.observe(watched, "observed")).lease() as native:
            native.use()
        assert profiler.running in (True, False)
        stage.handle.close()
        profiler.report()
        profiler.table()
