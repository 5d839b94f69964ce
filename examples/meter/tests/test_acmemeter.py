"""What users of the package rely on. The leak gate of native-lifecycle's plugin looks at each test as well
(`lifecycle_no_leaks` in pyproject.toml)."""

from __future__ import annotations

import gc
import threading
from typing import Any

import acmemeter
import pytest

from lifecycle import AccessError, SafetyManager
from lifecycle.testing import code_of, each_interrupt


def test_samples_are_read() -> None:
    with acmemeter.open_meter("M-100") as meter:
        with meter.read(4) as block:
            assert (block.first, list(block.samples)) == (0, [0.0, 0.5, 1.0, 1.5])
        with meter.read(2) as block:
            assert (block.first, list(block.samples)) == (4, [2.0, 2.5])


def test_samples_outlive_the_block_and_the_meter(sdk: Any) -> None:
    meter = acmemeter.open_meter("M-100")
    with meter.read(1000) as block:
        tail = block.samples[998:]
    assert not meter.close()
    assert (sdk.meter_opened(), sdk.meter_lent()) == (1, 1)
    assert list(tail) == [499.0, 499.5]
    tail.release()
    assert meter.close(timeout=20)


def test_what_is_closed_says_so() -> None:
    meter = acmemeter.open_meter("M-100")
    block = meter.read(1)
    block.close()
    block.close()
    with pytest.raises(AccessError, match=r"acme\.Block"):
        _ = block.samples
    assert meter.close(timeout=20)
    with pytest.raises(AccessError, match=r'acme\.Meter "M-100"'):
        meter.read(1)


def test_what_the_sdk_says_is_raised() -> None:
    with pytest.raises(acmemeter.MeterError, match="meter_open: no such device") as caught:
        acmemeter.open_meter("X-1")
    assert caught.value.number == 1


def test_a_meter_may_be_closed_while_another_thread_reads() -> None:
    meter = acmemeter.open_meter("M-100")
    sums: list[float] = []
    begun = threading.Event()

    def read() -> None:
        try:
            while True:
                with meter.read(100) as block:
                    sums.append(sum(block.samples))
                begun.set()
        except AccessError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(20)
    assert meter.close(timeout=20)
    thread.join(20)
    assert all(value == value for value in sums), "a sample of freed memory"


def test_no_interrupt_loses_a_block_or_a_device() -> None:
    def use() -> None:
        with acmemeter.open_meter("M-100", owner) as meter, meter.read(3) as block:
            assert sum(block.samples) == 1.5
        assert meter.close(timeout=20)

    owner = SafetyManager(name="struck")
    struck = sum(1 for _ in each_interrupt(use, of=code_of(acmemeter)))
    assert struck > 20
    gc.collect()  # what was struck stands in tracebacks, and those in cycles
    report = owner.close()
    assert (report.failed, report.leaked) == ((), ())
