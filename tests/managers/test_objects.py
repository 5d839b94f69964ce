"""ObjectLifecycleManager: ids, names, families, histories, validators."""

from __future__ import annotations

import gc
import itertools
import time
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    ClosedError,
    LifecycleError,
    ObjectLifecycleManager,
    ObjectState,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import UnknownObjectError
from lifecycle.states import TRANSITIONS
from tests.core.adversary import (
    Interrupt,
    assert_nothing_left,
    at_once,
    each_interrupt,
    every_line,
    switching,
)
from tests.core.natives import Native
from tests.managers.support import collector
from tests.support import run_python


def register(objects: ObjectLifecycleManager, name: str | None = None, **more: Any) -> int:
    more.setdefault("release", Native.free)
    return objects.register_object(Native(name or ""), "native", name, release_on=ANY_THREAD, **more)


def test_an_object_lives_under_its_id(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        native = Native("left")
        id = objects.register_object(native, "camera", "left", release=Native.free)
        gc.collect()
        assert id in objects
        assert objects.safe_object_access(id, Native.use) == "left"
        assert objects.safe_object_access(id, lambda obj, more: (obj.label, more), 5) == ("left", 5)
        assert objects.info(id).name == "left"
        assert objects.unregister_object(id)
        assert native.released == 1
        assert id not in objects
        assert objects.unregister_object(id)  # the same answer
        with pytest.raises(AccessRefusedError, match=r'camera "left".*released'):
            objects.safe_object_access(id, Native.use)


def test_found_by_name_and_type(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        one = register(objects, "a")
        two = register(objects, "a")
        three = objects.register_object([], "list", "a", release=list.clear, release_on=ANY_THREAD)
        four = register(objects)
        assert [info.id for info in objects.find()] == [one, two, three, four]
        assert [info.id for info in objects.find("a")] == [one, two, three]
        assert [info.id for info in objects.find("a", "native")] == [one, two]
        assert [info.id for info in objects.find(type_name="list")] == [three]
        assert objects.find("b") == ()
        objects.unregister_object(one)
        assert [info.id for info in objects.find("a", "native")] == [two]
        objects.unregister_object(two)
        objects.unregister_object(three)
        assert objects._names == {}
        assert objects.stats().objects == 1


def test_the_history_tells_each_step(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        plain, panicked, failing = (
            register(objects),
            register(objects),
            register(objects, release=lambda _: 1 / 0),
        )
        assert [str(step.state) for step in objects.history(plain)] == ["valid"]
        objects.unregister_object(plain)
        steps = objects.history(plain)
        assert [str(step.state) for step in steps] == ["valid", "closing", "releasing", "released"]
        assert steps[1].why == "unregister"
        assert "test_objects.py" in steps[1].site
        assert [step.at for step in steps] == sorted(step.at for step in steps)
        assert abs(steps[0].at - time.time()) < 60
        with pytest.raises(AccessPanicError):
            objects.safe_object_access(panicked, lambda native: 1 / 0)
        steps = objects.history(panicked)
        assert [str(step.state) for step in steps] == ["valid", "invalid", "releasing", "released"]
        assert "panic: ZeroDivisionError" in str(steps[1])
        objects.unregister_object(failing)
        steps = objects.history(failing)
        assert [str(step.state) for step in steps][-1] == "failed"
        assert "ZeroDivisionError" in steps[-1].why
        for id in (plain, panicked, failing):
            told = [step.state for step in objects.history(id)]
            for before, after in itertools.pairwise(told):
                assert after in reachable(before), (before, after)


def reachable(state: ObjectState) -> set[ObjectState]:
    """What may follow, the short time in which an object is due left out."""
    return {
        further for next_state in TRANSITIONS[state] for further in (next_state, *TRANSITIONS[next_state])
    }


def test_the_history_of_what_waits_for_its_place(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread="current")
    objects = ObjectLifecycleManager(manager)
    id = objects.register_object(Native(), "native", release=Native.free, release_on=queue)
    with manager.safe_access(id):
        import threading

        thread = threading.Thread(target=lambda: objects.unregister_object(id))
        thread.start()
        thread.join()
        assert [str(step.state) for step in objects.history(id)] == ["valid", "closing"]
    assert [str(step.state) for step in objects.history(id)] == ["valid", "closing", "due"]
    queue.drain()
    assert [str(step.state) for step in objects.history(id)][-1] == "released"


def test_validators_refuse_and_invalidate_with_the_reason(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        good, bad, broken = register(objects, "good"), register(objects, "bad"), register(objects, "broken")

        def validate(native: Native) -> bool:
            if native.label == "broken":
                raise OSError("handle is gone")
            return native.label != "bad"

        objects.enable_validation("native", validate)
        assert objects.safe_object_access(good, Native.use) == "good"
        with pytest.raises(AccessRefusedError, match="its validator refused it"):
            objects.safe_object_access(bad, Native.use)
        with pytest.raises(AccessRefusedError, match="its validator raised OSError: handle is gone"):
            objects.safe_object_access(broken, Native.use)
        assert "handle is gone" in objects.history(broken)[1].why
        assert objects.info(bad).state in ("invalid", "due", "released")
        objects.disable_validation("native")
        assert len(objects.find()) >= 1
        with pytest.raises(RegistrationError, match="disable_validation"):
            objects.enable_validation("native", None)  # type: ignore[arg-type]
        with pytest.raises(LifecycleError):
            objects.enable_validation("native", 7)  # type: ignore[arg-type]


def test_held_too_long(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        objects.set_max_age("native", 0.01)
        id = register(objects, "old")
        other = objects.register_object([], "list", release=list.clear)
        time.sleep(0.05)
        assert [info.id for info in objects.overdue()] == [id]
        objects.unregister_object(id)
        assert objects.overdue() == ()
        objects.set_max_age("native", None)
        assert objects.unregister_object(other)


def test_families(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        device = register(objects, "device")
        textures = [register(objects, f"texture {number}", parent=device) for number in range(2)]
        view = register(objects, "view", parent=textures[0])
        alone = register(objects, "alone")
        assert objects.children(device) == tuple(textures)
        assert objects.parent(view) == textures[0]
        assert objects.parent(device) == 0
        heads = objects.tree()
        assert [family.info.id for family in heads] == [device, alone]
        assert [(depth, info.name) for depth, info in heads[0].walk()] == [
            (0, "device"),
            (1, "texture 0"),
            (2, "view"),
            (1, "texture 1"),
        ]
        assert str(objects.tree(textures[0])[0]).count("\n") == 1
        assert not objects.unregister_object(device)  # its children hold it
        with pytest.raises(
            RegistrationError, match=r"""parent= names native "device" \(object \d+\), which is closed"""
        ):
            register(objects, parent=device)
        assert objects.unregister_object(view)
        assert objects.children(textures[0]) == ()
        objects.unregister_object(textures[0])
        objects.unregister_object(textures[1])
        assert [info.id for info in objects.find()] == [alone]
        assert objects._children == {}


def test_a_family_of_any_depth_is_shown(manager: SafetyManager) -> None:
    with ObjectLifecycleManager(manager) as objects:
        id = register(objects, "0")
        head = id
        for number in range(3000):
            id = register(objects, str(number + 1), parent=id)
        family = objects.tree(head)[0]
        assert max(depth for depth, _ in family.walk()) == 3000


def test_closing_it_closes_what_it_registered_and_nothing_else(manager: SafetyManager) -> None:
    others = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    order: list[str] = []
    objects = ObjectLifecycleManager(manager, name="mine")
    for label in "abc":
        objects.register_object(label, "text", label, release=order.append, release_on=ANY_THREAD)
    held = objects.register_object([], "list", release=list.clear, release_on=ANY_THREAD)
    with manager.safe_access(held):
        assert not objects.close()
        assert order == ["c", "b", "a"]
    assert objects.close()
    assert others.valid
    assert not manager.closed
    with pytest.raises(ClosedError, match="'mine': closed"):
        register(objects)
    others.close()


def test_it_closes_the_manager_that_it_made() -> None:
    native = Native()
    with ObjectLifecycleManager(name="own") as objects:
        objects.register_object(native, release=Native.free)
        assert objects.manager.name == "own"
    assert objects.manager.closed
    assert native.released == 1
    assert_nothing_left(objects.manager)


def test_ids_of_others_are_told_apart(manager: SafetyManager) -> None:
    one, two = ObjectLifecycleManager(manager, name="one"), ObjectLifecycleManager(manager, name="two")
    id = register(one)
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    for wrong in (id, handle.id):
        with pytest.raises(
            UnknownObjectError, match="was not registered through <ObjectLifecycleManager 'two'"
        ):
            two.safe_object_access(wrong, print)
        with pytest.raises(UnknownObjectError):
            two.unregister_object(wrong)
    for odd in ("7", None, 7.0, True, handle):
        with pytest.raises(UnknownObjectError):
            one.safe_object_access(odd, print)  # type: ignore[arg-type]
    with pytest.raises(UnknownObjectError):
        one.safe_object_access(10**12, print)
    handle.close()
    one.close()
    two.close()


def test_bad_input_is_refused_and_nothing_is_left(manager: SafetyManager) -> None:
    objects = ObjectLifecycleManager(manager)
    for wrong in ({"name": 7}, {"parent": "x"}, {"release": 7}, {"size": -1}, {"parent": 10**12}):
        with pytest.raises(LifecycleError):
            objects.register_object([], "list", **wrong)  # type: ignore[arg-type]
    with pytest.raises(LifecycleError):
        objects.register_object([], "")
    with pytest.raises(LifecycleError, match="takes a SafetyManager"):
        ObjectLifecycleManager("camera")  # type: ignore[arg-type]
    with pytest.raises(LifecycleError, match="takes a name"):
        ObjectLifecycleManager(manager, name="")
    with pytest.raises(LifecycleError):
        objects.close(timeout=-1)
    with pytest.raises(LifecycleError):
        objects.find([])  # type: ignore[arg-type]
    assert len(objects) == 0
    objects.close()


def test_when_the_manager_closes_so_does_it() -> None:
    manager = SafetyManager(name="closing")
    objects = ObjectLifecycleManager(manager)
    native = Native()
    objects.register_object(native, release=Native.free)
    manager.close()
    assert objects.closed
    assert native.released == 1
    assert len(objects) == 0
    with pytest.raises(ClosedError):
        objects.register_object(Native(), release=Native.free)


def test_registering_and_closing_at_once_leaves_nothing() -> None:
    with switching():
        for _ in range(30):
            with SafetyManager(name="race") as manager:
                objects = ObjectLifecycleManager(manager)
                natives: list[Native] = []

                def add(natives: list[Native] = natives, objects: ObjectLifecycleManager = objects) -> None:
                    for _ in range(5):
                        native = Native()
                        try:
                            register_one(objects, native)
                            natives.append(native)
                        except ClosedError as error:
                            assert native.released == ("has been released" in str(error))

                at_once(add, add, objects.close)
                objects.close()
                assert all(native.released == 1 for native in natives)
                assert len(objects) == 0
                assert_nothing_left(manager)


def register_one(objects: ObjectLifecycleManager, native: Native) -> int:
    return objects.register_object(native, "native", "same", release=Native.free, release_on=ANY_THREAD)


def test_an_interrupt_anywhere_loses_nothing() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="interrupted")
    objects = ObjectLifecycleManager(manager)
    made: list[Native] = []

    def run() -> None:
        native = Native()
        made.append(native)
        id = objects.register_object(native, "native", "name", release=Native.free, release_on=ANY_THREAD)
        objects.unregister_object(id)

    for struck in each_interrupt(run):
        assert struck.error is None or isinstance(struck.error, Interrupt), struck.error
        for id in list(objects._index):
            manager.unregister(id)
        native = made.pop()
        manager._any_thread.run_some(None)  # what was interrupted is taken up again
        if struck.error is not None:
            struck.error.__traceback__ = None
        gc.collect(1)
        assert native.released <= 1
        assert len(objects) == 0, struck.place
        assert not objects._names, struck.place
        assert not manager._registry.kept, struck.place
        assert manager.stats().active_objects == 0, struck.place
    manager.close()


def test_the_collector_at_every_line_changes_nothing(manager: SafetyManager) -> None:
    with every_line(collector()):
        objects = ObjectLifecycleManager(manager)
        parent = register(objects, "a")
        child = register(objects, "b", parent=parent)
        assert len(objects.tree()) == 1
        assert not objects.unregister_object(parent)
        assert objects.unregister_object(child)
        assert objects.close()


def test_a_forked_child_has_none_of_them() -> None:
    out = run_python(
        """
        import os
        from lifecycle import MemoryManager, ObjectLifecycleManager, SafetyManager
        manager = SafetyManager()
        objects, memory = ObjectLifecycleManager(manager), MemoryManager(manager)
        release = lambda obj: print("released", obj, os.getpid() == parent, flush=True)
        parent = os.getpid()
        objects.register_object("o", "text", "name", release=release)
        memory.track_object("m", "text", 100, release=release)
        pid = os.fork()
        if pid == 0:
            print("child", len(objects), objects.find("name"), memory.stats().all.bytes, flush=True)
            id = memory.track_object("c", "text", 5, release=lambda obj: print("own", obj, flush=True))
            print(memory.release_object(id, timeout=20), memory.stats().all.bytes, flush=True)
            objects.close(); memory.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print("parent", len(objects), memory.stats().all.bytes, flush=True)
        objects.close(timeout=20); memory.close(timeout=20)
        """
    ).check()
    assert out.splitlines() == [
        "child 0 () 0",
        "own c",
        "True 0",
        "parent 1 100",
        "released o True",
        "released m True",
    ]
