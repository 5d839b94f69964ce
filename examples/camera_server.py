"""A camera for several processes, which are killed and come back: ``python -m examples.camera_server``.

This process is the camera. A detector, a recorder and a web viewer receive its frames without a copy, each in
a process of its own. Every other second one of them is killed in the middle of its work, and started again.
The table shows that nothing is lost and nothing stays held: every frame is received or counted as missed, and
the seats of the dead are free again.

``--seconds 20`` says for how long, ``--port 8808`` where on this machine the viewer shows the latest picture.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from lifecycle import SafetyManager
from lifecycle.errors import ClosedError, Empty, Lagged
from lifecycle.integrations.iceoryx2 import Publisher, Receiver, SourceDiedError

TOPIC = "examples/camera"
HEIGHT, WIDTH = 240, 320
ROLES = {"detector": "latest-only", "recorder": "drop-oldest", "viewer": "latest-only"}


def draw(picture: Any, number: int) -> None:
    """What a camera's driver does: write into the memory it is given."""
    picture[...] = number % 64
    left = number * 4 % (WIDTH - 40)
    picture[100:140, left : left + 40] = 255


class Work:
    """What one role does with a frame."""

    def __init__(self, role: str, port: int) -> None:
        self.role = role
        self.told = ""
        self.picture = b""
        self.recorded = 0
        self.where = ""
        if role == "viewer":
            try:
                self.serve(port)
                self.where = f"shown at http://127.0.0.1:{port}"
            except OSError as error:
                self.where = f"not shown, port {port}: {error.strerror}"

    def serve(self, port: int) -> None:
        """Show the latest picture to browsers. Raises `OSError` where the port is not to be had."""
        work = self

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if work.picture else 503)
                self.send_header("Content-Type", "image/bmp")
                self.send_header("Refresh", "0.2")
                self.end_headers()
                self.wfile.write(work.picture)

            def log_message(self, *_: Any) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def __call__(self, picture: Any) -> None:
        if self.role == "detector":
            rows, columns = np.nonzero(picture[:, :, 0] == 255)
            self.told = f"at {columns.min()}, {rows.min()}" if len(rows) else "nothing"
        elif self.role == "recorder":
            self.recorded += picture.nbytes
            self.told = f"{self.recorded >> 20} MB"
        else:
            size = 54 + picture.nbytes
            head = struct.pack(
                "<2sIHHIIiiHHIIiiII", b"BM", size, 0, 0, 54, 40, WIDTH, -HEIGHT, 1, 24, *(0,) * 6
            )
            self.picture = head + picture.tobytes()
            self.told = self.where


def consume(role: str, port: int) -> None:
    """One consumer's process: a line of figures each quarter of a second, until the camera closes. It ends
    with the camera's process too, however that ends: it would keep its seat and port."""
    camera = os.getppid()
    work = Work(role, port)
    with (
        SafetyManager(name=role) as manager,
        Receiver(manager, TOPIC, policy=ROLES[role], start=30) as receiver,
    ):
        told = 0.0
        while receiver.source != "closed" and os.getppid() == camera:
            try:
                with receiver.recv(timeout=1) as frame:
                    work(frame.array())
            except (Empty, Lagged, SourceDiedError) as event:
                work.told = type(event).__name__
            except ClosedError:
                break
            if time.monotonic() - told > 0.25:
                told = time.monotonic()
                figures = {"received": receiver.received, "missed": receiver.missed, "lag": receiver.lag}
                try:
                    print(json.dumps({**figures, "work": work.told}), flush=True)
                except BrokenPipeError:
                    # The camera has ended; what is left to be written goes nowhere.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    break


class Consumer:
    """A consumer's process, as the camera sees it."""

    def __init__(self, role: str, port: int) -> None:
        self.role, self.port = role, port
        self.kills = 0
        self.figures: dict[str, Any]
        self.start()

    def start(self) -> None:
        """Start it, once more."""
        self.figures = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.camera_server", "--role", self.role, "--port", str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C is the camera's: they end with it.
            start_new_session=True,
        )
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def listen(self, process: Any) -> None:
        """Take its figures."""
        for line in process.stdout:
            if line.endswith("\n"):
                self.figures = json.loads(line)

    def told(self) -> str:
        """What it last said that it does."""
        if self.process.poll() is not None:
            return f"has ended with {self.process.returncode}"
        return str(self.figures.get("work", "starting"))

    def kill(self) -> None:
        """In the middle of whatever it does."""
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()


def table(publisher: Publisher, consumers: list[Consumer], witness: Receiver) -> None:
    """What is where."""
    stats = publisher.stats()
    print(
        f"\npublished {publisher.published}, seats taken {stats.receivers}, reaped {stats.freed}, failed "
        f"{stats.failed}"
    )
    for one in consumers:
        figures = one.figures
        print(
            f"  {one.role:9} pid {one.process.pid:<8} killed {one.kills:<3} "
            f"received {figures.get('received', 0):<6} missed {figures.get('missed', 0):<6} "
            f"lag {figures.get('lag', 0):<4} {one.told()}"
        )
    print(
        f"  {'witness':9} received {witness.received}, missed {witness.missed}, lag {witness.lag}", flush=True
    )


def main() -> int:
    """The camera, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=8808)
    parser.add_argument("--role", choices=ROLES)
    options = parser.parse_args()
    if options.role:
        consume(options.role, options.port)
        return 0
    with SafetyManager(name="camera") as manager:
        publisher = Publisher(manager, TOPIC, HEIGHT * WIDTH * 3, receivers=len(ROLES) + 1)
        witness = Receiver(manager, TOPIC)
        consumers = [Consumer(role, options.port) for role in ROLES]
        began = shown = killed = time.monotonic()
        stopped = threading.Event()
        # Ctrl-C ends it between two frames, and the sum is told.
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
        while time.monotonic() - began < options.seconds and not stopped.is_set():
            with publisher.loan((HEIGHT, WIDTH, 3)) as loan:
                draw(loan.array(), publisher.published)
                publisher.publish(loan)
            with witness.recv(timeout=5) as frame:
                assert int(frame.array()[0, 0, 0]) == frame.seq % 64, "torn"
            now = time.monotonic()
            if now - killed > 2:
                killed = now
                at_work = [one for one in consumers if one.figures]
                if at_work:
                    random.choice(at_work).kill()
            if now - shown > 1:
                shown = now
                table(publisher, consumers, witness)
            stopped.wait(1 / 30)
        table(publisher, consumers, witness)
        whole = publisher.published == witness.received + witness.missed + witness.lag
        publisher.close()
        for one in consumers:
            one.process.wait(30)
        witness.close()
        print("every frame is accounted for" if whole else "COUNTS DIFFER")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
