"""What a topic is given that it cannot take, and what is taken from it: other users and versions, files that are
gone, memory, libraries that are not there. Typed errors, nothing lost, never an abort."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

from lifecycle import SafetyManager
from lifecycle.errors import Empty
from tests.across.support import Other, in_small_memory
from tests.support import ROOT, eventually, run_python

try:
    from lifecycle.integrations.iceoryx2 import Publisher, Receiver, SecondPublisherError, TopicError, _engine
except ImportError:
    pass


@pytest.mark.parametrize(("transport", "library"), [("iceoryx2", "iceoryx2"), ("zenoh", "zenoh")])
def test_without_its_library_an_import_says_what_to_install_and_where_there_is_no_wheel(
    transport: str, library: str
) -> None:
    code = f"""
        import sys
        sys.modules[{library!r}] = None
        from lifecycle.errors import LifecycleError
        try:
            import lifecycle.integrations.{transport}
        except ImportError as error:
            print(isinstance(error, LifecycleError), type(error).__name__, error)
    """
    said = run_python(code).check()
    assert said.startswith("True MissingTransportError ")
    assert f"pip install 'native-lifecycle[{transport}]'" in said
    if transport == "iceoryx2":
        assert "it is built with Rust" in said


@pytest.mark.needs("iceoryx2")
def test_a_topic_of_another_version_of_this_library_is_refused(
    manager: SafetyManager, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its headers cannot be read: nothing is received wrongly."""
    with Publisher(manager, topic, 64) as publisher:
        monkeypatch.setattr(_engine.Head, "type_name", staticmethod(lambda: "lifecycle.head.2"))
        with pytest.raises(TopicError, match="or one of another version of it"):
            Receiver(manager, topic, start=0)
        with pytest.raises(TopicError, match="or one of another version of it"):
            Publisher(manager, topic, 64)
        monkeypatch.undo()
        with Receiver(manager, topic) as receiver:
            publisher.copy(b"goes on")
            with receiver.recv(30) as frame:
                assert bytes(frame.data()) == b"goes on"


@pytest.mark.needs("iceoryx2")
def test_a_second_publisher_in_another_process_is_told_of_the_first(
    manager: SafetyManager, topic: str
) -> None:
    code = """
        try:
            Publisher(manager, topic, 64)
        except SecondPublisherError as error:
            say(error)
        manager.close()
    """
    with Publisher(manager, topic, 64) as publisher, Other(code, topic) as other:
        said = other.says()
        assert f"(pid {os.getpid()}, alive)" in said
        assert other.ends() == []
        assert publisher.copy(b"goes on") == 0
    assert issubclass(SecondPublisherError, TopicError)


@pytest.mark.needs("iceoryx2")
def test_another_user_is_refused(manager: SafetyManager, topic: str) -> None:
    """Topics are for processes of one user: the files of the engine are."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be another user, by setpriv")
    code = """
        for call in (lambda: Publisher(manager, topic, 64), lambda: Receiver(manager, topic, start=0)):
            try:
                call()
            except SharedMemoryError as error:
                say(os.getuid(), isinstance(error, OSError), "another user" in str(error))
        manager.close()
    """
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    probe = subprocess.run(
        [*nobody, sys.executable, "-c", "import iceoryx2, numpy, lifecycle"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
        timeout=60,
    )
    if probe.returncode != 0:
        pytest.skip("another user may not read this interpreter, its packages or this repository")
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:
        with Other(code, topic, before=nobody) as other:
            assert other.ends() == ["65534 True True"] * 2
        publisher.copy(b"goes on")
        receiver.recv(30).close()


@pytest.mark.needs("iceoryx2")
def test_every_file_of_the_engine_is_removed_by_hand_and_who_is_there_goes_on(topic: str) -> None:
    """Arrays stay whole, both ends work and close, newcomers have a typed error or a topic of their own."""
    code = """
        import contextlib, errno
        publisher, receiver = Publisher(manager, topic, 64), Receiver(manager, topic)
        publisher.copy(np.full(8, 7, "u1"))
        with receiver.recv(30) as frame:
            array = frame.array()
        for top in ("/dev/shm",):
            for folder, _, names in os.walk(top):
                for name in names:
                    os.remove(os.path.join(folder, name))
        calls = [publisher.consumers, publisher.reap, publisher.stats, receiver.stats, lambda: receiver.lag]
        calls.append(lambda: publisher.copy(b"late"))
        calls.append(lambda: receiver.recv(1).close())
        calls.append(lambda: Receiver(manager, topic, start=0).close())
        calls.append(lambda: Publisher(manager, topic, 64).close())
        for call in calls:
            with contextlib.suppress(LifecycleError):
                call()
        say(*set(array.tolist()), receiver.received + receiver.missed + receiver.lag - publisher.published)
        del array
        receiver.close()
        publisher.close()
        with Publisher(manager, topic + "/again", 64) as again, Receiver(manager, topic + "/again") as reader:
            again.copy(b"works")
            with reader.recv(30) as frame:
                say(bytes(frame.data()).decode())
        gc.collect()
        say(manager.close().ok)
    """
    with Other(code, topic, before=in_small_memory("size=16m")) as other:
        assert other.ends() == ["7 0", "works", "True"]


@pytest.mark.needs("iceoryx2")
def test_a_newcomer_is_told_that_files_of_the_topic_are_missing(topic: str) -> None:
    code = """
        from lifecycle.integrations.iceoryx2 import SharedMemoryError
        with Publisher(manager, topic, 64), Receiver(manager, topic):
            for name in os.listdir("/dev/shm"):
                if name.startswith("iox2_"):
                    os.remove(os.path.join("/dev/shm", name))
            try:
                Receiver(manager, topic, start=0.1)
            except SharedMemoryError as error:
                say("is missing" in str(error) and "choose another name" in str(error))
        say(manager.close().ok)
    """
    with Other(code, topic, before=in_small_memory("size=16m")) as other:
        assert other.ends() == ["True", "True"]


@pytest.mark.needs("iceoryx2")
def test_no_file_stays_of_what_was_killed_but_what_is_counted(topic: str) -> None:
    """Consumers are killed at work and while starting, the publisher's watcher and `reap` remove what they
    had; a publisher is killed, and the next one removes what it had."""
    code = """
        import random, subprocess
        consuming = (
            "import sys; from lifecycle import SafetyManager;"
            "from lifecycle.integrations.iceoryx2 import Receiver;"
            "print(flush=True); receiver = Receiver(SafetyManager(), sys.argv[1]);"
            "print(flush=True); sys.stdin.read()"
        )
        publishing = consuming.replace("Receiver(", "Publisher(").replace("import Receiver", "import Publisher")
        publishing = publishing.replace("sys.argv[1])", "sys.argv[1], 64)")

        def start(code, topic, lines):
            command = [sys.executable, "-c", code, topic]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            other = subprocess.Popen(command, **pipes)
            for _ in range(lines):
                other.stdout.readline()
            return other

        def files():
            return {os.path.join(folder, name) for folder, _, names in os.walk("/dev/shm") for name in names}

        def removed():
            until = time.monotonic() + 60
            while files() - base and time.monotonic() < until:
                time.sleep(0.01)
            return len(files() - base)

        publisher = Publisher(manager, topic, 64)
        base = files()
        others = [start(consuming, topic, 2)]
        for other in others:
            other.kill()
            other.wait()
        say(removed(), publisher.receivers)
        others = [start(consuming, topic, 1), start(publishing, topic + "/b", 2)]
        time.sleep(0.02)
        for other in others:
            other.kill()
            other.wait()
        reaped = publisher.reap()
        say(len(files() - base) if not reaped.left else "counted")
        publisher.close()
        manager.close()
        del publisher
        gc.collect()
        say(*sorted(name.rpartition(".")[2] for name in files()) if not reaped.left else ["global_mgmt"])
    """
    with Other(code, topic, before=in_small_memory("size=64m")) as other:
        said = other.ends()
        assert said[0] == "0 0"
        assert said[1] in ("0", "counted")
        assert said[2] == "global_mgmt"


@pytest.mark.needs("iceoryx2")
def test_a_publisher_that_is_stopped_is_alive_and_goes_on(manager: SafetyManager, topic: str) -> None:
    publishing = """
        publisher = Publisher(manager, topic, 64)
        say("open")
        while told():
            publisher.copy(b"frame")
        publisher.close()
        manager.close()
    """
    with Other(publishing, topic) as other:
        assert other.says() == "open"
        with Receiver(manager, topic) as receiver:
            other.signal(signal.SIGSTOP)
            with pytest.raises(Empty):
                receiver.recv(0.3)
            assert receiver.source == "alive"
            other.tell()
            other.signal(signal.SIGCONT)
            receiver.recv(30).close()
            assert (receiver.received, receiver.missed, receiver.lag) == (1, 0, 0)
        assert other.ends() == []


@pytest.mark.needs("iceoryx2")
@pytest.mark.skipif(sys.platform != "linux", reason="the file of the memory is looked for in /dev/shm")
@pytest.mark.parametrize("reserve", [True, False])
def test_the_memory_is_what_the_formula_says_and_reserved_where_that_is_asked_for(
    manager: SafetyManager, topic: str, reserve: bool
) -> None:
    """A7: ``receivers × (held + behind) + history + loans`` frames, each of whose pages is there."""
    figures = {"receivers": 3, "held": 5, "behind": 2, "history": 1, "loans": 4}
    with Publisher(manager, topic, 1 << 16, reserve=reserve, **figures) as publisher:
        assert publisher.stats().frames == 3 * (5 + 2) + 1 + 4
        assert publisher.reserved == ("reserved" if reserve else "not reserved")
        assert publisher._ports is not None
        path = _engine._segment(publisher._ports.publisher)
        assert path is not None
        facts = Path(path).stat()
        frames = facts.st_size / (1 << 16)
        assert publisher.stats().frames <= frames < publisher.stats().frames + 2
        there = facts.st_blocks * 512
        assert there >= facts.st_size if reserve else there < facts.st_size / 2
    eventually(lambda: publisher.closed)
