"""Guard pages: memory that has come back faults at the line that uses it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle import BufferPool, SafetyManager
from lifecycle.errors import ConfigError
from lifecycle.pools import guarding
from tests.recorder.scenes import line_of, play, report
from tests.support import eventually

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc of Linux tells the rights"
)


@pytest.fixture(autouse=True)
def without_others() -> Iterator[None]:
    guarding._guarded.clear()
    yield
    guarding._guarded.clear()


def rights(address: int) -> str:
    """The rights of the mapping that has `address`, empty where there is none."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4})", line)
            if match and int(match[1], 16) <= address < int(match[2], 16):
                return match[3]
    return ""


def test_what_comes_back_is_inaccessible_and_no_longer_the_pools(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 8192, 2, guard="paranoid")
    buffer = pool.get()
    address = buffer.address
    assert rights(address) == "rw-p"
    view = buffer.view()
    buffer.close()
    assert rights(address) == "rw-p", "a view has it still"
    view.release()
    del view
    eventually(lambda: rights(address) == "---p")
    stats = pool.stats()
    assert (stats.guarded, stats.guarded_bytes, stats.losses["guarded"]) == (1, 8192, 1)
    with pool.get() as other:
        assert other.address != address
        other.view()[:] = bytes(8192)
    assert pool.stats().results["created"] == 2


def test_one_in_so_many_is_guarded(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 1, guard=10)
    for _ in range(200):
        pool.get().close()
    stats = pool.stats()
    assert stats.guarded == 20
    assert stats.results["created"] in (20, 21)


def test_so_many_are_kept_and_no_more(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool(manager, 4096, 1, guard="paranoid")
    addresses = []
    for _ in range(guarding.MOST_BLOCKS + 10):
        with pool.get() as buffer:
            addresses.append(buffer.address)
    assert pool.stats().guarded_bytes == guarding.MOST_BLOCKS * 4096
    assert {rights(address) for address in addresses[-guarding.MOST_BLOCKS :]} == {"---p"}
    monkeypatch.setattr(guarding, "MOST_BYTES", 5 * 4096)
    pool.get().close()
    assert pool.stats().guarded_bytes == 5 * 4096
    assert pool.stats().guarded == guarding.MOST_BLOCKS + 11


def test_what_the_system_refuses_to_guard_is_not_said_to_be_inaccessible(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(guarding, "_protect", lambda *_: -1)
    monkeypatch.setattr(guarding, "note", lambda what, _, id, *__: told.append((what, id)))
    pool = BufferPool(manager, 4096, 1, guard="paranoid")
    buffer = pool.get()
    buffer.close()
    assert pool.stats().guarded_bytes == 0
    assert not guarding._guarded, "it went"
    assert told == [("guarded", buffer.id), ("accessible", buffer.id)]


def test_poison_and_guard_go_together(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 1, guard=2, poison=0xAB)
    for _ in range(10):
        with pool.get() as buffer:
            buffer.view()[0] = 1
    assert pool.stats().guarded == 5
    assert pool.stats().losses["stale"] == 0


@pytest.mark.parametrize("guard", [0, -1, True, 1.5, "much", b"paranoid"])
def test_what_is_no_number_of_releases_is_refused(manager: SafetyManager, guard: object) -> None:
    with pytest.raises(ConfigError, match="guard= takes a number of releases"):
        BufferPool(manager, 4096, 1, guard=guard)  # type: ignore[arg-type]


def test_the_environment_speaks_where_nothing_is_given(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFECYCLE_GUARD", " Paranoid ")
    pool = BufferPool(manager, 4096, 1)
    pool.get().close()
    assert pool.stats().guarded == 1
    monkeypatch.setenv("LIFECYCLE_GUARD", "often")
    with pytest.warns(RuntimeWarning, match=r"LIFECYCLE_GUARD='often'.*nothing is guarded") as given:
        pool = BufferPool(manager, 4096, 1)
    assert given[0].filename == __file__
    pool.get().close()
    assert pool.stats().guarded == 0


def test_the_post_mortem_names_the_buffer_whose_address_was_kept(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        from lifecycle import BufferPool
        manager = SafetyManager()
        pool = BufferPool(manager, 8192, 40, guard="paranoid", type_name="frame")
        frames = [pool.get() for _ in range(31)]
        kept = frames[7].address
        def give_back():
            for frame in frames:
                frame.close()
        thread = threading.Thread(target=give_back, name="giver")
        thread.start()
        thread.join()
        print(frames[7].id, flush=True)
        ctypes.string_at(kept + 100, 4)
        """,
    )
    assert done.rc == -signal.SIGSEGV
    found = report(tmp_path)
    suspect = found.suspects[0]
    assert str(suspect.life) == f'frame {done.stdout.strip()} "buffers"'
    assert suspect.why.startswith("byte 100 of its 8,192; inaccessible since it was released on giver")
    assert found.frame is not None
    assert found.frame.line == line_of(tmp_path, "ctypes.string_at(kept")
    assert os.path.basename(found.frame.file) == "scene.py"
    assert len(found.suspects) == 1
