"""``python -m benchmarks.across``: frames for other processes, beside the other ways, in one run.

1080p RGB at 30 frames a second. Each consumer is a process of its own, which reads one row of each frame;
with threads all of it is one process. Latency is from just before the frame is handed over, its copy not
included, to the moment at which a consumer has it: the median of all. CPU is that of all processes, with the
copy into shared memory where there is one, for each frame that came to a consumer (who cannot keep up with 30
a second drops some). The ways take turns, so that what else runs on the machine meets all of them.

Below that: what a frame of 4 KB costs within one process beside objects that are registered and distributed
there, an idle receiver, and how long a dead one keeps its seat.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lifecycle import ANY_THREAD, FrameDistributor, SafetyManager
from lifecycle.errors import ClosedError, Lagged
from lifecycle.integrations import iceoryx2

SHAPE = (1080, 1920, 3)
NBYTES = 1080 * 1920 * 3
SLOTS = 16
TARGETS = {
    "CPU, copy, 1 consumer ÷ shared_memory + Queue": 1.4,
    "CPU, copy ÷ pickling, 1 consumer": 0.2,
    "CPU, copy ÷ pickling, 4 consumers": 0.1,
    "4 KB: loan, array, publish, recv, array, close ÷ register, publish, recv, close here": 2.5,
    "idle receiver, ms of CPU a second": 3.0,
    "death to free seat, ms": 50.0,
}


def cpu() -> float:
    """Seconds of CPU of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Seen:
    """What one consumer has seen: latencies, and the CPU that it took since its first frame."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.begun = self.used = 0.0

    def frame(self, array: Any, sent_ns: int) -> None:
        """One frame is here."""
        now = time.time_ns()
        if not self.begun:
            self.begun = cpu()
        self.latencies.append((now - sent_ns) / 1000)
        int(array[0].sum())
        self.used = cpu() - self.begun

    def told(self) -> str:
        """As a line."""
        return json.dumps({"latencies": self.latencies, "cpu": self.used})


# -- consumers, each a process -------------------------------------------------------------------------------


def consume_topic(topic: str, ready: Any, results: Any, transport: str) -> None:
    """A receiver of a topic."""
    import importlib

    module = importlib.import_module(f"lifecycle.integrations.{transport}")
    more = {"session": loopback(False)} if transport == "zenoh" else {}
    seen = Seen()
    with (
        SafetyManager(name="consumer") as manager,
        module.Receiver(manager, topic, start=30, **more) as receiver,
    ):
        ready.put(1)
        while True:
            try:
                with receiver.recv(30) as frame:
                    array = frame.array()
                    seen.frame(array, frame.published_ns)
                    del array
            except Lagged:
                continue
            except ClosedError:
                break
    for session in more.values():
        session.close()
    results.put(seen.told())


def consume_pickles(frames: Any, ready: Any, results: Any) -> None:
    """Of a `multiprocessing.Queue`."""
    seen = Seen()
    ready.put(1)
    while (item := frames.get()) is not None:
        seen.frame(item[1], item[0])
    results.put(seen.told())


def consume_slots(name: str, frames: Any, ready: Any, results: Any) -> None:
    """Of shared memory by hand: the queue says which slot."""
    seen = Seen()
    memory = SharedMemory(name)
    slots: Any = np.ndarray((SLOTS, *SHAPE), "u1", memory.buf)
    ready.put(1)
    while (item := frames.get()) is not None:
        seen.frame(slots[item[1]], item[0])
    del slots
    memory.close()
    results.put(seen.told())


# -- ways ----------------------------------------------------------------------------------------------------

PORT = 7451


def loopback(listens: bool) -> Any:
    """A zenoh session that knows one port of this machine."""
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", f'["tcp/127.0.0.1:{PORT if listens else 0}"]')
    if not listens:
        config.insert_json5("connect/endpoints", f'["tcp/127.0.0.1:{PORT}"]')
    return zenoh.open(config)


class Way:
    """One way to hand frames over: `send` is called for each, `end` at the end."""

    def __init__(self, consumers: int) -> None:
        self.processes: list[Any] = []
        self.context = multiprocessing.get_context("spawn")
        self.ready: Any = self.context.SimpleQueue()
        self.results: Any = self.context.Queue()
        self.consumers = consumers

    def start(self, function: Callable[..., None], *args: Any) -> None:
        """Start a consumer."""
        process = self.context.Process(target=function, args=args, daemon=True)
        process.start()
        self.processes.append(process)

    def wait_for_all(self) -> None:
        """Until each of them listens."""
        for _ in self.processes:
            self.ready.get()

    def seen(self) -> list[dict[str, Any]]:
        """What they tell."""
        found = [json.loads(self.results.get(timeout=60)) for _ in self.processes]
        for process in self.processes:
            process.join(30)
        return found

    def send(self, picture: Any) -> None:
        raise NotImplementedError

    def end(self) -> list[dict[str, Any]]:
        raise NotImplementedError


class Threads(Way):
    """A distributor in one process, a copy of each frame in."""

    def __init__(self, consumers: int) -> None:
        super().__init__(consumers)
        self.distributor: FrameDistributor[Any] = FrameDistributor(4)
        self.told = [Seen() for _ in range(consumers)]
        self.threads = [
            threading.Thread(target=self.consume, args=(seen, self.distributor.subscribe()))
            for seen in self.told
        ]
        for thread in self.threads:
            thread.start()

    def consume(self, seen: Seen, receiver: Any) -> None:
        while True:
            try:
                sent, array = receiver.recv(30)
                seen.frame(array, sent)
            except Lagged:
                continue
            except ClosedError:
                return

    def send(self, picture: Any) -> None:
        copied = picture.copy()
        self.distributor.publish((time.time_ns(), copied))

    def end(self) -> list[dict[str, Any]]:
        self.distributor.close()
        for thread in self.threads:
            thread.join(30)
        # Their CPU is this process's.
        return [{"latencies": seen.latencies, "cpu": 0.0} for seen in self.told]


class Topic(Way):
    """iceoryx2: a copy of each frame in."""

    transport = "iceoryx2"

    def __init__(self, consumers: int) -> None:
        super().__init__(consumers)
        self.manager = SafetyManager(name="publisher")
        topic = f"benchmarks/{os.getpid()}/{time.monotonic_ns()}"
        self.publisher: Any = self.make(topic)
        for _ in range(consumers):
            self.start(consume_topic, topic, self.ready, self.results, self.transport)
        self.wait_for_all()

    def make(self, topic: str) -> Any:
        return iceoryx2.Publisher(self.manager, topic, NBYTES, receivers=self.consumers)

    def send(self, picture: Any) -> None:
        self.publisher.copy(picture)

    def end(self) -> list[dict[str, Any]]:
        self.publisher.close()
        found = self.seen()
        assert self.manager.close().ok
        return found


class Loaned(Topic):
    """iceoryx2: written in place, a few pages of it."""

    def send(self, picture: Any) -> None:
        with self.publisher.loan(SHAPE) as loan:
            array = loan.array()
            array[0] = picture[0]
            del array
            self.publisher.publish(loan)


class Zenoh(Topic):
    """zenoh over loopback TCP."""

    transport = "zenoh"

    def make(self, topic: str) -> Any:
        from lifecycle.integrations import zenoh

        self.session = loopback(True)
        return zenoh.Publisher(self.manager, topic, session=self.session)

    def end(self) -> list[dict[str, Any]]:
        found = super().end()
        self.session.close()
        return found


class Slots(Way):
    """shared_memory, and a Queue for each that says which slot."""

    def __init__(self, consumers: int) -> None:
        super().__init__(consumers)
        self.memory = SharedMemory(create=True, size=SLOTS * NBYTES)
        self.slots: Any = np.ndarray((SLOTS, *SHAPE), "u1", self.memory.buf)
        self.slots[...] = 0
        self.number = 0
        self.queues = [self.context.Queue() for _ in range(consumers)]
        for frames in self.queues:
            self.start(consume_slots, self.memory.name, frames, self.ready, self.results)
        self.wait_for_all()

    def send(self, picture: Any) -> None:
        slot = self.number % SLOTS
        self.number += 1
        self.slots[slot] = picture
        sent = time.time_ns()
        for frames in self.queues:
            frames.put((sent, slot))

    def end(self) -> list[dict[str, Any]]:
        for frames in self.queues:
            frames.put(None)
        found = self.seen()
        del self.slots
        self.memory.close()
        self.memory.unlink()
        return found


class Pickles(Way):
    """multiprocessing.Queue for each."""

    def __init__(self, consumers: int) -> None:
        super().__init__(consumers)
        self.queues = [self.context.Queue(4) for _ in range(consumers)]
        for frames in self.queues:
            self.start(consume_pickles, frames, self.ready, self.results)
        self.wait_for_all()

    def send(self, picture: Any) -> None:
        item = (time.time_ns(), picture)
        for frames in self.queues:
            try:
                frames.put_nowait(item)
            except queue.Full:
                continue

    def end(self) -> list[dict[str, Any]]:
        for frames in self.queues:
            frames.put(None)
        return self.seen()


WAYS: dict[str, type[Way]] = {
    "FrameDistributor, threads": Threads,
    "iceoryx2, loan": Loaned,
    "iceoryx2, copy": Topic,
    "shared_memory + Queue": Slots,
    "multiprocessing.Queue": Pickles,
    "zenoh, loopback TCP": Zenoh,
}


def measured(way: type[Way], consumers: int, seconds: float) -> tuple[float, float]:
    """Median latency and CPU a frame, in µs."""
    made = way(consumers)
    picture = np.full(SHAPE, 7, "u1")
    for _ in range(3):
        made.send(picture)
        time.sleep(1 / 30)
    before, frames = cpu(), int(seconds * 30)
    begun = time.monotonic()
    for number in range(frames):
        made.send(picture)
        time.sleep(max(0.0, begun + (number + 1) / 30 - time.monotonic()))
    mine = cpu() - before
    found = made.end()
    latencies = [one for seen in found for one in seen["latencies"][3:]]
    got = sum(len(seen["latencies"]) for seen in found) / consumers
    return statistics.median(latencies), (mine + sum(seen["cpu"] for seen in found)) / got * 1e6


# -- within one process --------------------------------------------------------------------------------------


def topic_of_4_kb(loops: int) -> float:
    """Seconds of CPU for each: lent, written, published, received, read, closed."""
    with SafetyManager(name="bench") as manager:
        publisher = iceoryx2.Publisher(manager, f"benchmarks/{os.getpid()}", 4096, receivers=1)
        receiver = iceoryx2.Receiver(manager, publisher.name)
        for _ in range(100):
            publisher.copy(b"x")
            receiver.recv(0).close()
        begun = time.thread_time()
        for _ in range(loops):
            loan = publisher.loan(4096)
            loan.array()[0] = 1
            publisher.publish(loan)
            frame = receiver.recv(0)
            frame.array()[0]
            frame.close()
        took = time.thread_time() - begun
        receiver.close()
        publisher.close()
    return took / loops


def here(loops: int) -> float:
    """The same with an object of this process: registered, published, received, closed."""
    with SafetyManager(name="bench") as manager:
        distributor: FrameDistributor[Any] = FrameDistributor(2)
        receiver = distributor.subscribe()
        begun = time.thread_time()
        for _ in range(loops):
            handle = manager.register(bytearray(1), "frame", release=len, release_on=ANY_THREAD)
            distributor.publish(handle)
            receiver.recv(0).close()
            handle.close()
        took = time.thread_time() - begun
        distributor.close()
    return took / loops


IDLE = """
import resource, sys, time
from lifecycle import SafetyManager
from lifecycle.errors import Empty
from lifecycle.integrations.iceoryx2 import Receiver
receiver = Receiver(SafetyManager(name="idle"), sys.argv[1])
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
print("open", flush=True)
before = cpu()
try:
    receiver.recv(float(sys.argv[2]))
except Empty:
    pass
print((cpu() - before) / float(sys.argv[2]) * 1000, flush=True)
receiver.recv()
"""


def idle_and_dead(seconds: float) -> tuple[float, float]:
    """What an idle receiver takes, in ms of CPU a second, and after how many ms the seat of one that is
    killed is free."""
    with SafetyManager(name="bench") as manager:
        publisher = iceoryx2.Publisher(manager, f"benchmarks/{os.getpid()}", 4096)
        idle, freed = 0.0, []
        for number in range(5):
            command = [sys.executable, "-c", IDLE, publisher.name, str(seconds if not number else 0.1)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
                assert other.stdout is not None
                other.stdout.readline()
                told = float(other.stdout.readline())
                idle = idle or told
                time.sleep(0.2)
                begun = time.monotonic()
                other.send_signal(signal.SIGKILL)
                while publisher.receivers:
                    time.sleep(0.0005)
                freed.append((time.monotonic() - begun) * 1000)
        publisher.close()
    return idle, statistics.median(freed)


def main() -> int:
    """The tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each way, each time")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=110)
    figures: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for consumers in (1, 4):
            for name, way in WAYS.items():
                figures.setdefault((name, consumers), []).append(measured(way, consumers, options.seconds))
    load = os.getloadavg()[0]
    python = f"CPython {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}"
    title = f"1080p RGB, 30 a second · {python}"
    table = Table(title=title)
    for heading in (
        "µs, least – most of the rounds",
        "latency, 1",
        "4 consumers",
        "CPU a frame, 1",
        "4 consumers",
    ):
        table.add_column(heading, justify="left" if heading.startswith("µs") else "right")
    for name in WAYS:
        cells = []
        for which in (0, 1):
            for consumers in (1, 4):
                values = [one[which] for one in figures[name, consumers]]
                cells.append(f"{min(values):.0f} – {max(values):.0f}")
        table.add_row(name, *cells)
    console.print(table)

    def took(name: str, consumers: int) -> float:
        return statistics.median(one[1] for one in figures[name, consumers])

    idle, freed = idle_and_dead(5.0)
    pairs = [(topic_of_4_kb(3000), here(3000)) for _ in range(5)]
    results = [
        took("iceoryx2, copy", 1) / took("shared_memory + Queue", 1),
        took("iceoryx2, copy", 1) / took("multiprocessing.Queue", 1),
        took("iceoryx2, copy", 4) / took("multiprocessing.Queue", 4),
        statistics.median(ours / peer for ours, peer in pairs),
        idle,
        freed,
    ]
    ours, peer = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
    table = Table(title=f"targets (4 KB: {ours:.1f} µs, {peer:.1f} µs)")
    for heading in ("what", "measured", "target"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for (what, target), value in zip(TARGETS.items(), results, strict=True):
        table.add_row(what, f"{value:.2f}{'' if value <= target else '  over'}", f"≤ {target:g}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
