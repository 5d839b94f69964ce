"""Files that are cut short, of another version, spoilt or hostile: what can be read is, and the rest is said."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest

import lifecycle
from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.recorder import RecordingError, layout
from lifecycle.recorder.frames import find
from lifecycle.recorder.page import data_of
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import parse, plain
from tests.core.natives import Native
from tests.support import Refusal

STORM = int(os.environ.get("LIFECYCLE_STORM", "1"))
MUTANTS = 60 if STORM == 1 else 1000 * STORM


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with everything in it."""
    path = tmp_path_factory.mktemp("original") / "original.rec"
    recorder = lifecycle.recorder.start(path, slots=1024, uses=64, fault=False)
    try:
        with SafetyManager(name="original") as manager:
            for number in range(50):
                handle = manager.register(
                    Native(),
                    "buffer",
                    name=f"buffer {number} of a name that takes two items, or three of them, of the texts",
                    release=Native.free,
                    release_on=ANY_THREAD,
                    native=0x7000_0000_0000 + number * 4096,
                    size=4096,
                )
                with handle.lease():
                    recorder.note("in a lease")
                handle.close()
            kept = manager.register(Native(), "kept", release=Native.free, release_on=ANY_THREAD)
            lease = kept.lease()
            data = path.read_bytes()
            lease.close()
            kept.close()
    finally:
        recorder.stop()
    text = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x0000000000000001 (most recent call first):\n"
    return data + f'{text}  File "app.py", line 3 in f\n'.encode()


def look(data: bytes) -> None:
    """Everything that can be asked of a file: it is answered, or refused in a sentence."""
    try:
        recording = parse("mutant.rec", data)
    except RecordingError as error:
        assert str(error).startswith("mutant.rec ")
        assert "\n" not in str(error)
        return
    report = analyse(recording)
    text = str(report)
    assert not any((ord(letter) < 32 and letter != "\n") or ord(letter) == 127 for letter in text)
    json.dumps(report.as_dict(), allow_nan=False)
    json.dumps(data_of(report, sources=False), allow_nan=False)


def test_the_original_says_everything(original: bytes) -> None:
    recording = parse("original.rec", original)
    assert len(recording.entries) == recording.written == 50 * 5 + 1
    assert (recording.torn, recording.missing, recording.problems) == (0, (), ())
    assert (
        recording.entries[0].name == "buffer 0 of a name that takes two items, or three of them, of the texts"
    )
    (use,) = analyse(recording).in_use
    assert use.type == "kept"
    assert sum(use.ended for use in recording.uses) == 50
    look(original)


@pytest.mark.timeout(120 * STORM)
def test_mutants_are_answered_or_refused(original: bytes) -> None:
    dice = random.Random(11)
    tables = [struct.unpack_from("<QII", original, 16 + 16 * number) for number in range(5)]
    for _ in range(MUTANTS):
        data = bytearray(original)
        for _ in range(dice.choice((1, 3, 30))):
            offset, item, count = dice.choice([*tables, (0, 1, 1024)])
            at = offset + dice.randrange(min(item * count, 20_000))
            size = dice.choice((1, 2, 4, 8, 64))
            new = dice.choice((b"\xff" * size, b"\0" * size, dice.randbytes(size), b"\x1b[2J\n"))
            data[at : at + len(new)] = new
        if not dice.randrange(4):
            del data[dice.randrange(len(data)) :]
        look(bytes(data))


@pytest.mark.parametrize("size", [0, 7, 8, 100, 111, 112, 4095, 4096, 5000, 80_000, 200_000])
def test_cut_short(original: bytes, size: int) -> None:
    data = original[:size]
    look(data)
    if size <= 4095:
        with pytest.raises(RecordingError, match=r"no recording|is empty|cut short"):
            parse("cut.rec", data)
    else:
        recording = parse("cut.rec", data)
        assert any("cut short" in one for one in recording.problems)
        if size >= 80_000:
            assert len(recording.entries) == len(parse("whole.rec", original).entries)


def test_another_version_and_another_file(original: bytes, tmp_path: Path, refusal: Refusal) -> None:
    newer = original[:8] + struct.pack("<I", 2) + original[12:]
    for data, words in (
        (newer, "has version 2 of the format, and this is lifecycle of version 1"),
        (b"\x7fELF" * 4000, "is no recording"),
        (b"\0" * 9000, "is empty"),
    ):
        path = tmp_path / "other.rec"
        path.write_bytes(data)
        assert words in refusal("postmortem", str(path))


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path: Path, refusal: Refusal) -> None:
    link = tmp_path / "link.rec"
    link.symlink_to(tmp_path / "nowhere.rec")
    os.mkfifo(tmp_path / "fifo.rec")
    for path, words in (
        (tmp_path / "absent.rec", "No such file or directory"),
        (tmp_path, "no regular file"),
        (link, "symbolic link"),
        (tmp_path / "fifo.rec", "no regular file"),
        (tmp_path / ("long" * 100), "File name too long"),
        (Path("a\x1b[2Jb"), "a?[2Jb cannot be read"),
    ):
        assert words in refusal("postmortem", str(path))
    assert "cannot be read" in refusal("postmortem", "nul\0.rec")


def test_texts_that_lead_in_a_circle_end(original: bytes) -> None:
    data = bytearray(original)
    offset, item, count = struct.unpack_from("<QII", original, 16 + 16 * 3)
    for number in range(1, 200):
        layout.TEXT.pack_into(data, offset + number * item, b"round", 5, number)
    assert parse("circle.rec", bytes(data)).entries[0].name == "round" * 4


def test_nothing_reaches_a_terminal_as_a_command() -> None:
    assert plain("a\x1b[31m\n\u202eb\x9b") == "a?[31m??b?"


def test_frames_of_aarch64() -> None:
    """The layout of Linux's headers; there is no such machine here to try it on."""
    base, size = 0x7FFF_0000_0000, 65_536
    for syndrome, access in ((0x24 << 26, "read"), (0x24 << 26 | 64, "write"), (0x20 << 26, "execute")):
        region = bytearray(size)
        context = 40_000
        struct.pack_into("<QQQIIQ", region, context, 0, 0, base, 0, 0, size)
        struct.pack_into("<Q", region, context + 176, 0xDEAD_0000)
        struct.pack_into("<Q", region, context + 176 + 8 + 32 * 8, 0x4000)
        struct.pack_into("<II", region, context + 176 + 288, 0x4650_8001, 528)
        struct.pack_into("<IIQ", region, context + 176 + 288 + 528, 0x4553_5201, 16, syndrome)
        fault = find("aarch64", bytes(region), base, 3)
        assert fault is not None
        assert (fault.address, fault.access, fault.instruction, fault.stack) == (
            0xDEAD_0000,
            access,
            0x4000,
            3,
        )
        assert find("riscv64", bytes(region), base, 3) is None
        assert find("x86_64", bytes(region), base, 3) is None
