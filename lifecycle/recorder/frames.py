"""What the kernel left on an alternate signal stack: fault address, kind of access, instruction.

The layouts are those of ``struct rt_sigframe`` in Linux. The frame is found by ``uc_stack``, which holds the
stack's own address and size. faulthandler's handler takes no ``siginfo``, so the kernel writes none, and what
counts is the context of the processor. A signal that was sent (Ctrl-C, `abort`, `kill`) has a frame with no
fault in it.
"""

from __future__ import annotations

from struct import Struct, unpack_from

import attrs

_WORD = Struct("<Q")
PROTECTION, PAGE_FAULT = 13, 14
"""Trap numbers on x86-64: an address that no mapping could have, and one that none has or allows."""
_ESR_MAGIC = 0x45535201
_ABORTS = {0x20: "execute", 0x21: "execute", 0x24: "data", 0x25: "data"}
"""On aarch64: exception classes of an access that failed."""


@attrs.frozen
class Fault:
    """The last entry, which the kernel wrote: an access that failed."""

    address: int | None
    """What was accessed; None where the kernel does not say, as for an address that no mapping could have."""
    access: str | None
    """``read``, ``write`` or ``execute``; None where it is unknown."""
    instruction: int
    """Where the processor was."""
    stack: int
    """On which of the file's stacks it was found."""


def find(machine: str, region: bytes, base: int, number: int) -> Fault | None:
    """The frame of an access that failed in `region`, stack `number` of the file, which lay at `base`; None
    if there is none."""
    decode = {"x86_64": _x86_64, "aarch64": _aarch64}.get(machine)
    if decode is None:
        return None
    pattern = _WORD.pack(base)
    at = len(region)
    # The frame of a signal that struck inside a handler lies lower than that of the crash.
    while (at := region.rfind(pattern, 0, at)) >= 0:
        context = at - 16
        if context < 0 or at + 24 > len(region) or unpack_from("<Q", region, at + 16)[0] != len(region):
            continue
        if context + 480 <= len(region):
            found = decode(region, context, number)
            if found is not None:
                return found
    return None


def _x86_64(region: bytes, context: int, number: int) -> Fault | None:
    (instruction,) = unpack_from("<Q", region, context + 168)
    error, trap, _, address = unpack_from("<4Q", region, context + 192)
    if trap == PAGE_FAULT:
        access = "execute" if error & 16 else "write" if error & 2 else "read"
        return Fault(address, access, instruction, number)
    return Fault(None, None, instruction, number) if trap == PROTECTION else None


def _aarch64(region: bytes, context: int, number: int) -> Fault | None:
    machine = context + 176
    (address,) = unpack_from("<Q", region, machine)
    (instruction,) = unpack_from("<Q", region, machine + 8 + 31 * 8 + 8)
    # Behind fault address, 31 registers, sp, pc and pstate, on the next multiple of 16.
    at = machine + 288
    while at + 16 <= len(region):
        magic, size, syndrome = unpack_from("<IIQ", region, at)
        if magic == _ESR_MAGIC:
            access = _ABORTS.get(syndrome >> 26 & 0x3F)
            if access == "data":
                access = "write" if syndrome & 64 else "read"
            return Fault(address, access, instruction, number) if access else None
        if not magic or size < 8:
            return None
        at += size
    return None
