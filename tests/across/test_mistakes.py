"""What goes wrong with raw shared memory, beside what happens here: dead and stopped processes, forks,
interrupts, threads that close, memory that is too small, files that are gone."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("iceoryx2")

from lifecycle import SafetyManager
from lifecycle.errors import Empty, Lagged, PoolExhaustedError
from lifecycle.testing import each_interrupt
from tests.across.support import Other, in_small_memory
from tests.core.adversary import STORM
from tests.support import eventually

try:
    from lifecycle.integrations.iceoryx2 import Publisher, Receiver
except ImportError:
    pass


# -- raw, and here -------------------------------------------------------------------------------------------


RAW = """
import ctypes, sys
import iceoryx2 as iox
import numpy as np
iox.set_log_level(iox.LogLevel.Fatal)
node = iox.NodeBuilder.new().signal_handling_mode(iox.SignalHandlingMode.Disabled).create(iox.ServiceType.Ipc)
builder = node.service_builder(iox.ServiceName.new(sys.argv[1]))
service = builder.publish_subscribe(iox.Slice[ctypes.c_uint8]).create()
publisher = service.publisher_builder().initial_max_slice_len(64).create()
subscriber = service.subscriber_builder().create()
def send(value):
    loan = publisher.loan_slice_uninit(64)
    ctypes.memset(loan.payload_ptr, value, 64)
    loan.assume_init().send()
send(1)
sample = subscriber.receive()
array = np.asarray(sample.payload().as_memory_view())
"""


def raw(code: str, topic: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", RAW + code, topic], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.strip()


def test_an_array_over_a_raw_sample_becomes_another_picture_and_here_it_does_not(
    manager: SafetyManager, topic: str
) -> None:
    """D: the raw array does not hold its sample."""
    code = "del sample\nfor value in range(2, 9):\n    send(value)\n    subscriber.receive()\nprint(array[0])"
    rc, said = raw(code, topic + "/raw")
    assert rc == 0
    assert said != "1"
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:
        publisher.copy(np.full(64, 1, "u1"))
        array = receiver.recv(0).array()
        for value in range(2, 9):
            publisher.copy(np.full(64, value, "u1"))
            receiver.recv(0).close()
        assert array.tolist() == [1] * 64
        del array


def test_writing_what_was_received_is_refused_where_it_kills_a_raw_process(
    manager: SafetyManager, topic: str
) -> None:
    """P: numpy calls the raw array writeable."""
    rc, said = raw("print(array.flags.writeable, flush=True)\narray[0] = 9", topic + "/raw")
    assert (rc, said) == (-signal.SIGSEGV, "True")
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:
        publisher.copy(np.zeros(64, "u1"))
        with receiver.recv(0) as frame:
            array = frame.array()
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 9
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
            del array


def test_a_port_that_was_deleted_kills_a_raw_process_and_here_it_is_closed(topic: str) -> None:
    """P, by A3."""
    rc, _ = raw("sample.delete()\nsample.payload_ptr", topic + "/raw")
    assert rc == -signal.SIGABRT
    manager = SafetyManager(name="deleted")
    publisher = Publisher(manager, topic, 64)
    receiver = Receiver(manager, topic)
    publisher.copy(np.zeros(8, "u1"))
    frame = receiver.recv(0)
    loan = publisher.loan(8)
    manager.close()
    for call in (frame.array, frame.share, loan.array, receiver.recv, publisher.consumers, publisher.reap):
        with pytest.raises(Exception, match=r"clos|released|not the"):
            call()
    assert (frame.seq, frame.shape, loan.shape, receiver.lag, receiver.source) == (0, (8,), (8,), 0, "alive")


# -- stopped, and killed -------------------------------------------------------------------------------------


def test_a_publisher_waits_for_no_stopped_consumer_whose_frame_stays_whole(
    manager: SafetyManager, topic: str
) -> None:
    """A5: a hundred frames go past it; woken it has its picture, and has missed exactly what it has
    missed."""
    holding = """
        receiver = Receiver(manager, topic)
        say("open")
        with receiver.recv(60) as held:
            array = held.array()
            say("holds")
            told()
            say(*set(array.tolist()))
            del array
        while receiver.received + receiver.missed < 101:
            try:
                receiver.recv(60).close()
            except Lagged as error:
                say("missed", error.missed)
        say(receiver.received, receiver.missed, receiver.lag)
        receiver.close()
        manager.close()
    """
    with Publisher(manager, topic, 4096) as publisher, Other(holding, topic) as other:
        assert other.says() == "open"
        eventually(lambda: publisher.receivers == 1)
        publisher.copy(np.full(64, 255, "u1"))
        assert other.says() == "holds"
        other.signal(signal.SIGSTOP)
        for number in range(100):
            assert publisher.copy(np.full(64, number, "u1")) == 1
        assert [peer.state for peer in publisher.consumers()] == ["alive"]
        other.signal(signal.SIGCONT)
        other.tell()
        assert other.says() == "255"
        assert other.says() == "missed 96"
        assert other.ends() == ["5 96 0"]


@pytest.mark.parametrize("where", ["before the send", "before its figures"])
def test_a_publisher_that_is_killed_in_the_middle_of_publish_leaves_a_frame_or_none(
    manager: SafetyManager, topic: str, where: str
) -> None:
    """Between write and send it was never sent; between send and blackboard it is received, and `lag` is
    right again."""
    dying = """
        publisher = Publisher(manager, topic, 64)
        say("open")
        told()
        publisher.copy(np.full(64, 1, "u1"))
        ports = type(publisher._ports)
        if sys.argv[2] == "before the send":
            from lifecycle.integrations.iceoryx2 import publisher as module
            module.taking = lambda pop: os.kill(os.getpid(), signal.SIGKILL)
        else:
            ports.tell = lambda *facts: os.kill(os.getpid(), signal.SIGKILL)
        publisher.copy(np.full(64, 2, "u1"))
    """
    with Other(dying, topic, where) as other:
        assert other.says() == "open"
        with Receiver(manager, topic) as receiver:
            other.tell()
            other.process.wait(60)
            eventually(lambda: receiver.source == "died")
            got = []
            while True:
                try:
                    with receiver.recv(0) as frame:
                        got.append(frame.array().tolist())
                except Exception:
                    break
            sent = 1 if where == "before the send" else 2
            assert got == [[value] * 64 for value in range(1, sent + 1)]
            assert (receiver.received, receiver.missed, receiver.lag) == (sent, 0, 0)


def test_what_was_killed_at_work_and_while_starting_costs_no_survivor_a_frame(topic: str) -> None:
    """A4, A5, A6: consumers die at random moments, a survivor checks every picture and every sum."""
    seconds = 45.0 if STORM >= 10 else 1.0
    consumer = """
        say("starting")
        receiver = Receiver(manager, topic, start=60)
        kept = []
        while True:
            try:
                frame = receiver.recv(60)
            except Lagged:
                continue
            except PoolExhaustedError:
                kept.clear()
                continue
            array = frame.array()
            if not (array == array[0]).all():
                say("TORN", frame.seq)
            kept.append(array[7:])
            del kept[:-3], array
            frame.close()
    """
    manager = SafetyManager(name="storm")
    publisher = Publisher(manager, topic, 1 << 16, receivers=4)
    survivor = Receiver(manager, topic)
    stop = threading.Event()
    wrong: list[str] = []

    def publish() -> None:
        number = 0
        while not stop.is_set():
            try:
                with publisher.loan(1 << 16) as loan:
                    loan.array()[...] = number % 251
                    publisher.publish(loan)
                number += 1
                time.sleep(0.001)
            except Exception as error:
                wrong.append(f"publisher: {error!r}")
                return

    def survive() -> None:
        while True:
            try:
                with survivor.recv(0.1) as frame:
                    array = frame.array()
                    if not (array == frame.seq % 251).all():
                        wrong.append(f"torn: {frame.seq}")
                    del array
            except Lagged:
                continue
            except Empty:
                if stop.is_set():
                    return
            except Exception as error:
                wrong.append(f"survivor: {error!r}")
                return

    threads = [threading.Thread(target=publish), threading.Thread(target=survive)]
    for thread in threads:
        thread.start()
    chance = random.Random(16)
    until = time.monotonic() + seconds
    killed = 0
    others: list[Other] = []
    while time.monotonic() < until or killed < 3:
        while len(others) < 2:
            others.append(Other(consumer, topic))
            others[-1].says()
        time.sleep(chance.choice((0.0, 0.02, 0.1, 0.3, 0.6)))
        other = others.pop(chance.randrange(2))
        other.kill()
        killed += 1
        assert other.process.stdout is not None
        said = other.process.stdout.read()
        assert "TORN" not in said
        assert other.complaints() == ""
        other.__exit__()
    for other in others:
        other.kill()
        other.__exit__()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong
    eventually(lambda: publisher.receivers == 1)
    assert survivor.received > 0
    assert publisher.published == survivor.received + survivor.missed + survivor.lag
    assert survivor.lag == 0
    print(f"{killed} killed, {publisher.published} published, {publisher.stats().failed} reapings failed")
    survivor.close()
    publisher.close()
    gc.collect()
    assert manager.close().ok


# -- fork ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "gc.collect(); frame.close(); sys.exit(0)"])
def test_a_forked_child_that_ends_takes_nothing_of_its_parents(topic: str, end: str) -> None:
    """A8: seat, frame, loan and publisher are the parent's, whole, and go on."""
    code = f"""
        import warnings
        warnings.simplefilter("ignore")
        publisher = Publisher(manager, topic, 64)
        receiver = Receiver(manager, topic)
        publisher.copy(np.full(64, 7, "u1"))
        frame = receiver.recv(30)
        array = frame.array()
        loan = publisher.loan(64)
        held, over = threading.Event(), threading.Event()
        def hold():
            "Another thread works with both ends at that moment."
            with publisher._ports.turn, receiver._feed._looking:
                held.set()
                over.wait(60)
        holding = threading.Thread(target=hold)
        holding.start()
        held.wait()
        pid = os.fork()
        if not pid:
            for call in (receiver.recv, lambda: publisher.publish(loan), publisher.reap):
                try:
                    call()
                    os._exit(3)
                except ClosedError:
                    pass
            {end}
        say("child", os.waitpid(pid, 0)[1])
        over.set()
        holding.join()
        for value in range(20):
            loan.array()[...] = value
            say(publisher.publish(loan)) if value == 0 else publisher.publish(loan)
            loan = publisher.loan(64)
            try:
                receiver.recv(30).close()
            except Lagged as error:
                say("missed", error.missed)
        say(*set(array.tolist()), receiver.received, receiver.missed, receiver.lag, publisher.published)
        loan.close()
        frame.close()
        del array
        receiver.close()
        publisher.close()
        say(manager.close().ok)
    """
    with Other(code, topic) as other:
        assert other.ends() == ["child 0", "1", "7 21 0 0 21", "True"]


# -- interrupts ----------------------------------------------------------------------------------------------


def drained(receiver: Any) -> list[int]:
    """The numbers of the frames that are there, each whole."""
    found = []
    while True:
        try:
            with receiver.recv(0) as frame:
                assert len(set(frame.array().tolist())) == 1
                found.append(frame.seq)
        except Lagged:
            continue
        except Empty:
            return found


def test_an_interrupted_publish_has_sent_or_given_back_never_both(manager: SafetyManager, topic: str) -> None:
    """A1, A4: at every point of `publish`."""
    with Publisher(manager, topic, 64, loans=1) as publisher, Receiver(manager, topic) as receiver:
        loans: list[Any] = []

        def run() -> int:
            return publisher.publish(loans[-1])

        loans.append(publisher.loan(8))
        struck = 0
        for case in each_interrupt(run, step=1 if STORM >= 10 else 3):
            struck += 1
            before = receiver.received
            sent = publisher.published - before - receiver.missed
            assert sent in (0, 1), case.place
            assert len(drained(receiver)) == sent, case.place
            assert publisher.published == receiver.received + receiver.missed, case.place
            if case.error is not None:
                case.error.__traceback__ = None
            loans.pop().close()
            gc.collect()
            # The only loan is free again, whichever it was.
            loans.append(publisher.loan(8, timeout=30))
        assert struck > 10
        assert receiver.missed == 0
        loans.clear()


def test_an_interrupted_recv_loses_no_frame_or_counts_it_as_missed(
    manager: SafetyManager, topic: str
) -> None:
    """A1, A4: at every point of `recv`; every sample goes back."""
    with Publisher(manager, topic, 64, held=2) as publisher, Receiver(manager, topic) as receiver:
        got: list[Any] = []

        def run() -> None:
            try:
                got.append(receiver.recv(0))
            except Lagged:  # of the frames that interrupts before this one have cost
                got.append(receiver.recv(0))

        publisher.copy(np.zeros(8, "u1"))
        struck = 0
        for case in each_interrupt(run, step=1 if STORM >= 10 else 3):
            struck += 1
            for frame in got:
                frame.close()
            got.clear()
            if case.error is not None:
                case.error.__traceback__ = None
            drained(receiver)  # what had come, and was not given out
            gc.collect()
            eventually(lambda: manager.stats().active_objects == 0)
            publisher.copy(np.zeros(8, "u1"))
            assert publisher.published == receiver.received + receiver.missed + receiver.lag, case.place
        assert struck > 10
        for frame in got:
            frame.close()


# -- threads -------------------------------------------------------------------------------------------------


def test_four_threads_close_shares_while_frames_are_received(manager: SafetyManager, topic: str) -> None:
    """A1, A3: each sample goes back once, after its last share; then both ends are closed under everybody's
    feet."""
    with Publisher(manager, topic, 1024, held=8, behind=8) as publisher:
        receiver = Receiver(manager, topic)
        shares: list[Any] = []
        stop = threading.Event()
        wrong: list[str] = []

        def close() -> None:
            while not stop.is_set() or shares:
                try:
                    share = shares.pop()
                except IndexError:
                    time.sleep(0.0005)
                    continue
                try:
                    array = share.array()
                    if len(set(array.tolist())) != 1:
                        wrong.append(f"torn {share.seq}")
                    del array
                    share.close()
                except Exception as error:
                    wrong.append(repr(error))

        closers = [threading.Thread(target=close) for _ in range(4)]
        for thread in closers:
            thread.start()
        for number in range(1500 if STORM >= 10 else 300):
            publisher.copy(np.full(100, number % 256, "u1"))
            try:
                frame = receiver.recv(0)
            except (Lagged, Empty, PoolExhaustedError):
                continue
            for _ in range(4):
                shares.append(frame.share())
            frame.close()
        stop.set()
        for thread in closers:
            thread.join(60)
        assert not wrong
        eventually(lambda: manager.stats().active_objects == 0)
        assert publisher.published == receiver.received + receiver.missed + receiver.lag

        def use() -> None:
            while True:
                try:
                    publisher.copy(np.zeros(100, "u1"))
                    receiver.recv(0.01).close()
                except (Lagged, Empty):
                    continue
                except Exception as error:
                    if "close" not in str(error):
                        wrong.append(repr(error))
                    return

        users = [threading.Thread(target=use) for _ in range(4)]
        for thread in users:
            thread.start()
        time.sleep(0.05)
        receiver.close()
        publisher.close()
        for thread in users:
            thread.join(60)
        assert not wrong


def test_figures_are_asked_for_by_several_threads_at_once(manager: SafetyManager, topic: str) -> None:
    """What looks for the publisher's death is refused to a second thread by the system's poll."""
    wrong: list[BaseException] = []
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:

        def ask() -> None:
            try:
                for _ in range(1000):
                    receiver.stats()
                    assert receiver.source == "alive"
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for number in range(100):
                publisher.copy(np.full(8, number, "u1"))
                with receiver.recv(30) as frame:
                    assert frame.array()[0] == number
        finally:
            sys.setswitchinterval(interval)
            for thread in threads:
                thread.join(60)
        assert wrong == []
        assert (receiver.received, receiver.lag) == (100, 0)


# -- memory --------------------------------------------------------------------------------------------------


def test_a_topic_that_does_not_fit_into_shared_memory_is_refused_at_the_start(topic: str) -> None:
    """A7: an OSError, where a raw publisher is killed by SIGBUS some frames later; and nothing is left of
    it."""
    code = """
        import errno
        try:
            Publisher(manager, topic, 1 << 20)
        except SharedMemoryError as error:
            say(isinstance(error, OSError), error.errno == errno.ENOSPC, "room for 35 frames" in
            str(error))
        gc.collect()
        say(*sorted(name.rpartition(".")[2] for _, _, names in os.walk("/dev/shm") for name in names) or ["nothing"])
        with Publisher(manager, topic, 1 << 20, receivers=1, held=1, behind=1) as publisher:
            with Receiver(manager, topic) as receiver:
                for value in range(30):
                    publisher.copy(np.full(1 << 20, value, "u1"))
                    with receiver.recv(30) as frame:
                        assert (frame.array() == value).all()
            say(publisher.reserved)
        manager.close()
        gc.collect()
        say(*sorted(name.rpartition(".")[2] for _, _, names in os.walk("/dev/shm") for name in names) or ["nothing"])
    """
    with Other(code, topic, before=in_small_memory("size=8m")) as other:
        assert other.ends() == ["True True True", "nothing", "reserved", "global_mgmt"]


def test_shared_memory_that_is_read_only_full_or_removed_is_an_error_and_no_end_of_the_process(
    topic: str,
) -> None:
    code = """
        import subprocess
        publisher = Publisher(manager, topic, 64)
        receiver = Receiver(manager, topic)
        # Removed by hand: who is there goes on, who comes is refused.
        for name in os.listdir("/dev/shm/iceoryx2"):
            subprocess.run(["rm", "-rf", "/dev/shm/iceoryx2/" + name], check=True)
        publisher.copy(np.full(8, 5, "u1"))
        with receiver.recv(30) as frame:
            say(int(frame.array()[0]))
        try:
            Receiver(manager, topic, start=0)
        except LifecycleError as error:
            say(type(error).__name__)
        receiver.close()
        publisher.close()
        subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
        try:
            Publisher(manager, topic + "/ro", 64)
        except (LifecycleError, OSError) as error:
            say(type(error).__name__)
        subprocess.run(["mount", "-o", "remount,rw", "/dev/shm"], check=True)
        file = os.open("/dev/shm/full", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(file, bytes(4096))
        except OSError:
            pass
        try:
            Publisher(manager, topic + "/full", 64)
        except (LifecycleError, OSError) as error:
            say(type(error).__name__)
        manager.close()
    """
    with Other(code, topic, before=in_small_memory("size=4m")) as other:
        said = other.ends()
        assert said[0] == "5"
        assert said[1] in ("NoPublisherError", "SharedMemoryError", "TransportError")
        assert said[2:] == ["SharedMemoryError", "SharedMemoryError"]
