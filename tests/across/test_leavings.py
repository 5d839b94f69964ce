"""What a process leaves that is killed in the middle of making its files: free again, and nobody waits for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytestmark = [
    pytest.mark.needs("iceoryx2"),
    pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="where the engine's files lie elsewhere"),
]

from lifecycle import SafetyManager
from tests.across.support import Other
from tests.support import eventually, run_python

try:
    from lifecycle.integrations.iceoryx2 import Publisher, Receiver, _engine, _files
except ImportError:
    pass

HOLDING = """
    publisher = Publisher(manager, topic, 64)
    say(publisher._ports.node.id.value)
    told()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def services_of(node: int) -> list[Path]:
    root = Path(_engine.ROOT)
    hashes = [tag.stem for tag in (root / "nodes" / str(node)).glob("*.service_tag")]
    return [root / "services" / f"{one}.service" for one in hashes]


def shared_of(node: int, ending: str) -> list[Path]:
    pid = str(_files.process_of(node))
    found = Path("/dev/shm").glob(f"iox2_*{ending}")
    return [path for path in found if str(_files.process_of(int(path.stem.rpartition("_")[2]))) == pid]


def not_done(path: Path, rights: int) -> None:
    """As it is before the engine has written it."""
    path.chmod(0o600)
    path.write_bytes(b"")
    path.chmod(rights)


def dynamic(node: int) -> None:
    not_done(shared_of(node, ".dynamic")[0], 0o200)


def tag(node: int) -> None:
    folder = Path(_engine.ROOT) / "nodes" / str(node)
    not_done(next(folder.glob("*.port_tag")), 0o600)


def service(node: int) -> None:
    """The last that its maker came to."""
    for path in services_of(node):
        not_done(path, 0o600)
    for path in shared_of(node, ".dynamic"):
        path.unlink()


@pytest.mark.parametrize("spoil", [dynamic, tag, service])
def test_what_was_being_made_when_its_maker_was_killed_stops_nobody(
    topic: str, spoil: Callable[[int], None]
) -> None:
    """A5, A6. Left to the engine, the first has every process on the machine wait for ever that opens a topic,
    with the GIL held; the second stays for good, and under the name of the third no topic can be made."""
    with Other(HOLDING, topic) as other:
        node = int(other.says())
        other.kill()
        spoil(node)
    # In a process of its own, whose end is waited for.
    code = f"""
        from lifecycle import SafetyManager
        from lifecycle.integrations.iceoryx2 import Publisher, Receiver
        manager = SafetyManager(name="next")
        with Publisher(manager, {topic!r}, 64) as publisher, Receiver(manager, {topic!r}) as receiver:
            publisher.copy(b"goes on")
            with receiver.recv(30) as frame:
                print(bytes(frame.data()).decode(), publisher.reap().left)
        print(manager.close().ok)
    """
    assert run_python(code, timeout=60).check().split() == ["goes", "on", "0", "True"]
    assert not (Path(_engine.ROOT) / "nodes" / str(node)).exists()
    if spoil is service:
        # It had come further than that, which nobody can know now.
        for path in shared_of(node, ""):
            path.unlink()
    assert shared_of(node, "") == []


def test_a_node_that_was_not_done_is_counted_and_removed_when_it_is_old(
    manager: SafetyManager, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not list it, so only its age and its process tell that nobody makes it any more."""
    with Other("say(os.getpid())", topic) as other:
        other.says()
        assert other.ends() == []
    gone = (1 << 96) | (other.pid << 64) | 7
    mine = (2 << 96) | (os.getpid() << 64) | 7
    folders = [Path(_engine.ROOT) / "nodes" / str(node) for node in (gone, mine)]
    with Publisher(manager, topic, 64) as publisher:
        before = publisher.reap().left
        for folder in folders:
            folder.mkdir()
            (folder / "iox2_node.details").write_bytes(b"")
        orphan = Path("/dev/shm") / f"iox2_{'0' * 40}_{gone}.event_mgmt"
        orphan.write_bytes(b"")
        orphan.chmod(0o200)
        assert publisher.reap().left == before + 1
        assert orphan.exists(), "it is young: somebody may be making it"
        monkeypatch.setattr(_files, "OLD", 0.0)
        assert publisher.reap().left == before
        assert not folders[0].exists()
        assert not orphan.exists()
        # Of a process that runs: it may be making it.
        assert folders[1].exists()
        (folders[1] / "iox2_node.details").unlink()
        folders[1].rmdir()
        with Receiver(manager, topic) as receiver:
            publisher.copy(b"goes on")
            receiver.recv(30).close()


def test_what_may_be_of_a_living_process_is_left(tmp_path: Path) -> None:
    """The number of a dead process was given again, and the newcomer makes a file right now."""
    place = _files.Place(str(tmp_path), "iox2_", str(tmp_path))
    dead, newcomer = (1 << 96) | (4242 << 64) | 7, (2 << 96) | (4242 << 64) | 7
    file = tmp_path / f"iox2_{'0' * 40}_{dead}.dynamic"
    file.write_bytes(b"")
    file.chmod(0o200)
    assert not place.finish(dead, [newcomer])
    assert file.exists()
    assert place.finish(dead, [])
    assert not file.exists()


def test_a_dead_receiver_that_could_not_be_freed_is_freed_later(
    manager: SafetyManager, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: where another process was at it and was killed itself, nothing else wakes the watcher."""
    reap, failing = _engine.reap, [True, True]

    def fails(config: object, only: set[int] | None = None) -> tuple[int, int]:
        if only and failing:
            failing.pop()
            return 0, 1
        return reap(config, only)

    monkeypatch.setattr(_engine, "reap", fails)
    code = """
        receiver = Receiver(manager, topic)
        say("open")
        told()
    """
    with Publisher(manager, topic, 64) as publisher, Other(code, topic) as other:
        assert other.says() == "open"
        eventually(lambda: publisher.receivers == 1)
        other.kill()
        eventually(lambda: publisher.receivers == 0)
        assert failing == []
        assert publisher.stats().failed == 2
