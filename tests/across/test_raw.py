"""What the engine itself does where this library refuses, waits or counts: each mistake as a raw script in a
process of its own. Its twin, with what happens here, is named beside it. That the engine still does so is why the
twins are needed: a row that changes here is a reason to look at its twin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("iceoryx2")

from tests.across.test_mistakes import RAW

ENDS = {
    # test_a_port_that_was_deleted_kills_a_raw_process_and_here_it_is_closed
    "a port that was deleted": ("subscriber.delete()\nsubscriber.receive()", {-signal.SIGABRT}),
    # test_a_loan_is_published_by_nobody_while_an_array_could_write_it
    "a property of a loan that was finished": (
        "loan = publisher.loan_slice_uninit(64)\nloan.assume_init()\nloan.payload_ptr",
        {-signal.SIGABRT},
    ),
    "a second send": (
        "loan = publisher.loan_slice_uninit(64).assume_init()\nloan.send()\nloan.send()",
        {-signal.SIGABRT},
    ),
    # test_an_array_outlives_frame_receiver_publisher_and_the_publishers_process
    "an array of ports that are gone": (
        "del sample, subscriber, publisher, service, builder, node, send\nimport gc\ngc.collect()\n"
        "print(array[0])",
        {-signal.SIGSEGV, -signal.SIGBUS},
    ),
}
"""What ends the process, and by which signals."""

GOES_ON = """
# More than its seat may keep: test_a_receiver_that_keeps_its_whole_seat_is_refused_and_goes_on_when_arrays_go
kept = [sample]
try:
    while len(kept) < 100:
        send(2)
        kept.append(subscriber.receive())
    print("held", "all")
except iox.ReceiveError as error:
    print("held", "ReceiveError")
kept.clear()
del sample, array
# Overflow: test_a_lag_is_told_once_and_exactly
while subscriber.receive():
    pass
for value in range(10):
    send(value)
got = 0
while subscriber.receive():
    got += 1
print("overflow", got < 10)
# Written after it was sent: test_a_loan_is_published_by_nobody_while_an_array_could_write_it
loan = publisher.loan_slice_uninit(64)
address = loan.payload_ptr
ctypes.memset(address, 1, 64)
loan.assume_init().send()
sample = subscriber.receive()
before = ctypes.string_at(sample.payload_ptr, 1)
ctypes.memset(address, 9, 64)
print("written", before, ctypes.string_at(sample.payload_ptr, 1))
# A late one: test_a_late_receiver_is_given_the_last_frames
other = node.service_builder(iox.ServiceName.new(sys.argv[1] + "/late"))
other = other.publish_subscribe(iox.Slice[ctypes.c_uint8]).history_size(1).create()
publisher = other.publisher_builder().initial_max_slice_len(64).create()
send(5)
late = other.subscriber_builder().create()
nothing = late.receive() is None
publisher.update_connections()
print("late", nothing, late.receive() is not None)
"""


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them at once: each has to import the engine."""
    found = {}
    for number, (what, code) in enumerate(
        [(what, code) for what, (code, _) in ENDS.items()] + [("goes on", GOES_ON)]
    ):
        found[what] = subprocess.Popen(
            [sys.executable, "-c", RAW + code, f"test/raw/{os.getpid()}/{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    yield found
    for process in found.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("what", ENDS)
def test_what_ends_a_raw_process(running: dict[str, subprocess.Popen[str]], what: str) -> None:
    said = running[what].communicate(timeout=60)
    assert running[what].returncode in ENDS[what][1], said


def test_what_a_raw_process_is_not_told(running: dict[str, subprocess.Popen[str]]) -> None:
    said, complaints = running["goes on"].communicate(timeout=60)
    assert said.splitlines() == [
        "held ReceiveError",
        "overflow True",
        "written b'\\x01' b'\\t'",
        "late True True",
    ], complaints
