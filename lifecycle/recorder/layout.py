"""The layout of a recorder's file, version 1. The only module that the writer and the reader have in common.

All numbers are little-endian. The file is one header and five tables; what faulthandler writes is appended.

=========  ==============  ==========================================================================
region     an item         content
=========  ==============  ==========================================================================
header     4 096 bytes     `HEADER`, and what changes while the process runs, at offsets of its own
ring       `RECORD`, 64 B  what happened; item ``(number - 1) % count``
uses       `USE`, 32 B     leases and other accesses: from begin to end in one item
threads    `THREAD`, 64 B  who is meant by a native thread id, and by the identity in faulthandler's text
texts      `TEXT`, 64 B    types, names and sites, in chains
stacks     65 536 B        alternate signal stacks: the kernel writes fault address and registers there
the rest                   faulthandler's text
=========  ==============  ==========================================================================

A record counts only if its first word is its number and its last word the low half of that (R3). A use counts
only if its two times are the same.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAGIC: Final = b"LIFEREC\n"
VERSION: Final = 1
HEADER_SIZE: Final = 4096

REGIONS: Final = Struct("<8sII" + "QII" * 5)
"""Magic, version, flags; then offset, item size and count of ring, uses, threads, texts and stacks."""
FACTS: Final = Struct("<IIQddQII48s64s32s96s16s256s")
"""pid, parent's pid, start in ticks since boot, wall clock, monotonic clock, address of the mapping, uid,
spare; boot id, Python, library, platform, machine, name of the program."""
FACTS_AT: Final = 512
STATE: Final = Struct("<I")
STATE_AT: Final = 256
ENDED_BY: Final = Struct("<I")
ENDED_BY_AT: Final = 260
"""The number of the signal that ended the process once its managers were closed (`SafetyManager.close_on`), 0
for none."""
LEFT_OUT: Final = Struct("<QQ")
LEFT_OUT_AT: Final = 264
"""How many uses and texts had no room."""
ENDED_AT: Final = 288
ENDED: Final = Struct("<d")
"""Wall clock of the clean end."""

RUNNING: Final = 1
CLEAN: Final = 2
"""The values of the state."""

TEXT_IS_THE_PROGRAMS: Final = 1
"""Flag: the program had switched faulthandler on itself, so its text is elsewhere."""
CHILD: Final = 2
"""Flag: the process was forked from one with a recorder."""
NO_STACKS: Final = 4
"""Flag: no alternate signal stacks on this platform, so the fault address is unknown."""

RECORD: Final = Struct("<QdQIHBBQQIIII")
"""Number, time, object, thread, type, operation, flag, a, b, name, site, c, low half of the number."""
REGISTER_RECORD: Final = Struct("<QdQIIQQIIII")
SHUT_RECORD: Final = Struct("<QdQII28xI")
BEGINS_RECORD: Final = Struct("<QdQIId12xI4xI")
ENDS_RECORD: Final = Struct("<QdQII24xII")
"""`RECORD` with type, operation and flag in one number, ``type | operation << 16 | flag << 24``, and without
what is 0 there: of a begin with the site, of an end with the reason as c. A begin has as a the time at which
the door was shut, a double, where no record of its own says so: then it stands for both."""
SHUT_TIME: Final = Struct("<d")
USE: Final = Struct("<dQIHBBd")
"""Time, object, thread, type, kind, ended, time again."""
USE_ENDED_AT: Final = 23
"""Where in `USE` the byte stands that ends it."""
BEGUN_USE: Final = Struct("<dQIId")
"""`USE` as it is begun: type, kind and ended in one number, ``type | kind << 16``."""
THREAD: Final = Struct("<IIQd40s")
"""Native id, number of its stack + 1 (0: none), `get_ident()`, first seen, name."""
TEXT: Final = Struct("<58sHI")
"""Bytes, how many of them, the next item (0: none)."""
STACK_SIZE: Final = 65_536
TEXT_BYTES: Final = 58
LONGEST_TEXT: Final = 4 * TEXT_BYTES

ITEMS: Final = (RECORD.size, USE.size, THREAD.size, TEXT.size, STACK_SIZE)
"""Sizes of the items of the five tables, in their order."""
THREADS: Final = 512
TEXTS: Final = 16_384
STACKS: Final = 64
MOST_RECORDS: Final = 1 << 24
MOST_USES: Final = 1 << 20

REGISTER: Final = 1
SHUT: Final = 2
BEGINS: Final = 3
ENDS: Final = 4
VIEW: Final = 5
AGAIN: Final = 12
GUARDED: Final = 14
ACCESSIBLE: Final = 15
MISUSE: Final = 16
RISK: Final = 17
NOTE: Final = 18
LOAN: Final = 19
PUBLISHED: Final = 20
RECEIVED: Final = 21
"""Frames between processes: the topic as name, the frame's number as a, its bytes as b."""

OPERATIONS: Final = {
    REGISTER: "register",
    SHUT: "shut",
    BEGINS: "release begins",
    ENDS: "release ends",
    VIEW: "view",
    AGAIN: "release again",
    GUARDED: "guarded",
    ACCESSIBLE: "made accessible",
    MISUSE: "misuse",
    RISK: "risk",
    NOTE: "note",
    LOAN: "loan",
    PUBLISHED: "published",
    RECEIVED: "received",
}

CAUSES: Final = (
    "",
    "close",
    "unregister",
    "invalidate",
    "panic",
    "drop",
    "exit",
    "fork",
    "detach",
    "owner",
)
"""What the flag of a shut is."""
OUTCOMES: Final = ("", "released", "failed", "stuck", "detached", "orphaned")
"""What the flag of an end is."""
CAME_BACK: Final = 1
"""The flag of a risk that is over: 0 is written before a call, this behind it."""
OBSERVED: Final = 255
"""The flag of a registration of what is owned elsewhere; 0 borrowed, 1 or 2 owned."""
KINDS: Final = ("lease", "access", "exclusive")
"""What the kind of a use is."""
