"""Acme's measuring devices: ``with acmemeter.open_meter("M-100") as meter, meter.read(1000) as block: ...``.

The vendor's rules are: every block is freed once, and before its device is closed; nothing is used after
that. Here they are who holds whom. A block is a child of its meter, and the samples hold the block.
"""

from __future__ import annotations

import ctypes
import sys

from acmemeter import _sdk
from acmemeter._sdk import MeterError
from lifecycle import Handle, SafetyManager

__all__ = ["Block", "Meter", "MeterError", "manager", "open_meter"]

manager = SafetyManager(name="acmemeter")
"""Owns everything that this package opens. An application that has a manager of its own gives that to
`open_meter`, and has one report, one set of metrics and one end."""


class Block:
    """Samples of a meter. Close it, or use it in a ``with`` block."""

    def __init__(self, handle: Handle[ctypes.c_void_p], block: _sdk.Block) -> None:
        self._handle = handle
        self.first: int = block.first
        """The number of the first sample since the device was switched on."""
        self._samples = handle.view(block.samples, block.count * ctypes.sizeof(ctypes.c_float)).cast("f")

    @property
    def samples(self) -> memoryview:
        """The samples, volts as float32, in the SDK's memory. They may outlive the block and the meter."""
        # Not `self._samples` alone: that would still answer for a block that is closed.
        with self._handle.lease():
            return self._samples[:]

    def close(self) -> None:
        """Give the block back once nobody reads its samples. Again: nothing."""
        self._samples.release()
        self._handle.close()

    def __enter__(self) -> Block:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Meter:
    """An open device. Close it, or use it in a ``with`` block."""

    def __init__(self, handle: Handle[ctypes.c_void_p], owner: SafetyManager) -> None:
        self._handle = handle
        self._owner = owner

    def read(self, count: int) -> Block:
        """Wait for the next `count` samples. Raises `MeterError`, and `AccessError` once the meter is
        closed."""
        # Registered before it is filled. C writes the pointer to where it is looked for later, so that no
        # Ctrl-C comes between getting the block and owning it. Released by a worker, where no Ctrl-C comes
        # between the release and the call of C in it.
        pointer = ctypes.c_void_p()
        with self._handle.lease() as device:
            handle = self._owner.register(pointer, "acme.Block", release=_sdk.free, parent=self._handle)
            try:
                _sdk.read(device, count, pointer)
                return Block(handle, _sdk.Block.from_address(pointer.value or 0))
            except BaseException:
                handle.close()
                raise

    def close(self, timeout: float | None = 0) -> bool:
        """Close the device once no block of it is held. Waits for that up to `timeout` seconds (None: for
        ever); whether it is closed. Again: nothing, or it waits again."""
        return self._handle.close(timeout=timeout)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_meter(serial: str, owner: SafetyManager | None = None) -> Meter:
    """Open the device of that serial number. Raises `MeterError` where it is not plugged in."""
    owner = owner or manager
    pointer = ctypes.c_void_p()
    handle = owner.register(pointer, "acme.Meter", name=serial, release=_sdk.close)
    try:
        _sdk.open_device(serial, pointer)
        return Meter(handle, owner)
    except BaseException:
        handle.close()
        raise


if sys.platform == "win32":
    raise ImportError("acmemeter: the vendor has no library for Windows")
