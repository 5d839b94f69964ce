"""``lifecycle run --gl`` and ``--wgpu``: what is told of programs that know nothing of this library, and that
clean ones are silent and come to the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import read
from tests.core.adversary import STORM
from tests.gpu.test_wgpu import MISTAKES, SETUP
from tests.recorder.scenes import start
from tests.support import ROOT, Finished

SITE = ROOT / "lifecycle" / "watch" / "site"

TOLD = {
    "submitted-twice": "submitted twice: GPUCommandBuffer at app.py:{}; first at app.py:{}",
    "twice-in-one": "submitted twice: GPUCommandBuffer at app.py:{}",
    "another-device": "submitted to another device: GPUCommandBuffer at app.py:{}",
    "dead-device": "submitted to a destroyed device: GPUDevice at app.py:{}; destroyed at app.py:{}",
    "destroyed-before-submit": "submitted while destroyed: GPUBuffer at app.py:{}; destroyed at app.py:{}",
    "attachment-destroyed": "submitted while destroyed: GPUTexture at app.py:{}; destroyed at app.py:{}",
    "mapped": "submitted while mapped: GPUBuffer at app.py:{}; mapped at app.py:{}",
    "map-pending": "submitted while mapped: GPUBuffer at app.py:{}; mapped at app.py:{}",
    "read-destroyed": "used while destroyed: GPUBuffer at app.py:{}; destroyed at app.py:{}",
    "vertex-buffer-destroyed": "submitted while destroyed: GPUBuffer at app.py:{}; destroyed at app.py:{}",
    "buffer-of-a-bundle-destroyed": "submitted while destroyed: GPUBuffer at app.py:{}; destroyed at app.py:{}",
    "resolve-target-destroyed": "submitted while destroyed: GPUTexture at app.py:{}; destroyed at app.py:{}",
    "read-texture-destroyed": "used while destroyed: GPUTexture at app.py:{}; destroyed at app.py:{}",
    "dead-device-with-commands": "submitted to a destroyed device: GPUDevice at app.py:{}; destroyed at app.py:{}",
}
"""What is told of each mistake that aborts a process in wgpu, before it does."""
MISSED = {"read-mapped-destroyed"}
"""Of these nothing is told."""
QUICK = ("destroyed-before-submit",)


def run(folder: Path, code: str, *, watched: bool = True, verbose: bool = False, **env: str) -> Finished:
    (folder / "app.py").write_text(code, encoding="utf-8")
    order = {"watch": [], "gst": False, "gl": True, "wgpu": True, "verbose": verbose, "to": "", "pid": 0}
    site = {"LIFECYCLE_RUN": json.dumps(order), "PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}"} if watched else {}
    return start(folder, "app.py", env={"GUARDED": "0", **site, **env})


def told_of(done: Finished) -> list[str]:
    return [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("lifecycle")]


@pytest.mark.needs("wgpu")
@pytest.mark.parametrize("name", TOLD if STORM >= 10 else QUICK)
def test_what_aborts_in_wgpu_is_told_before(name: str, tmp_path: Path) -> None:
    assert set(TOLD) | MISSED == set(MISTAKES)
    path = tmp_path / "app.rec"
    done = run(tmp_path, SETUP + MISTAKES[name][0], LIFECYCLE_RECORDER=str(path))
    assert done.rc != 0
    line = SETUP.count("\n") + 1
    expected = TOLD[name].format(line, line)
    assert told_of(done)[0] == expected
    if done.rc < 0:
        names = [f"{one.life}: {one.why}" for one in analyse(read(path)).suspects]
        assert any(
            one.endswith(f"{expected.partition(':')[0]} on the thread that crashed") for one in names
        ), names


CLEAN_WGPU = (
    SETUP
    + """
for number in range(3):
    device.queue.write_buffer(source, 0, bytes([number]) * 64)
    device.queue.submit([record()])
    target.map_sync("READ")
    print(bytes(target.read_mapped())[:2])
    target.unmap()
device.queue.submit([draw_to(texture())])
gone = device.create_buffer(size=64, usage=U.COPY_DST)
gone.destroy()
print(bytes(device.queue.read_buffer(source))[:1], type(device.queue.submit).__name__)
try:
    device.create_buffer(size=-1, usage=U.COPY_DST)
except Exception as error:
    print(type(error).__name__)
"""
)


@pytest.mark.needs("wgpu")
def test_a_clean_program_on_wgpu_is_silent(tmp_path: Path) -> None:
    plain = run(tmp_path, CLEAN_WGPU, watched=False, LIFECYCLE_RECORDER="")
    assert "b'\\x02\\x02'" in plain.check()
    watched = run(tmp_path, CLEAN_WGPU)
    assert (watched.rc, watched.stdout, told_of(watched)) == (plain.rc, plain.stdout, [])


GL = """
from tests.gpu.contexts import Context, release_current
from OpenGL.GL import *
one, two = Context(), Context()
one.make_current()
texture, *more = glGenTextures(3)
buffer = glGenBuffers(1)
glBindBuffer(GL_ARRAY_BUFFER, buffer)
glBufferData(GL_ARRAY_BUFFER, 4096, None, GL_STATIC_DRAW)
print(bool(glMapBufferRange(GL_ARRAY_BUFFER, 0, 4096, GL_MAP_READ_BIT)))
print(glUnmapBuffer(GL_ARRAY_BUFFER))
glDeleteBuffers(1, [buffer])
{}
glDeleteTextures(more)
release_current()
"""


@pytest.mark.needs("gl")
def test_gl_names_are_deleted_where_they_were_made(tmp_path: Path) -> None:
    for code, expected in (
        ("glDeleteTextures(texture)", []),
        (
            "release_current(); glDeleteTextures(texture); one.make_current()",
            [
                "deleted without a current context, which deletes nothing: texture 1 made at app.py:6: at app.py:13"
            ],
        ),
        (
            "two.make_current(); glGenTextures(1); two_s = glGenFramebuffers(1); one.make_current(); "
            "glDeleteFramebuffers(1, [two_s])",
            [
                "risk: deleted in another context than it was made in, which is right where they share: "
                "framebuffer 1 made at app.py:13: at app.py:13"
            ],
        ),
    ):
        done = run(tmp_path, GL.format(code), verbose=True)
        assert done.stdout.split() == ["True", "1"], done
        lines = [line for line in told_of(done) if "watched: " not in line]
        assert lines == expected, done


MODERNGL = """
import moderngl
context = moderngl.create_standalone_context(backend="egl")
kept = [context.buffer(bytes(16)) for _ in range(3)]
first = context.buffer(b"abcd")
print(first.read())
first.release()
try:
    first.read()
except AttributeError as error:
    print("refused")
context.simple_framebuffer((4, 4)).clear()
"""


@pytest.mark.needs("moderngl")
def test_moderngl_is_told_of_what_is_used_behind_its_release_and_of_nothing_else(tmp_path: Path) -> None:
    done = run(tmp_path, MODERNGL)
    assert done.check().split() == ["b'abcd'", "refused"]
    used, counts = [line for line in told_of(done) if "not watched" not in line]
    assert used == (
        "used after close: moderngl.Buffer first seen at app.py:7: read() at app.py:9 raised AttributeError; "
        "closed at app.py:7"
    )
    assert counts.startswith("1 mistake, 0 risks; ")


DELETED = """
import ctypes, threading
from tests.gpu.contexts import Context
from OpenGL.GL import *
Context().make_current()
buffer = glGenBuffers(1)
glBindBuffer(GL_PIXEL_UNPACK_BUFFER, buffer)
glBufferData(GL_PIXEL_UNPACK_BUFFER, 1 << 23, None, GL_STREAM_DRAW)
address = glMapBufferRange(GL_PIXEL_UNPACK_BUFFER, 0, 1 << 23, GL_MAP_WRITE_BIT)
glBindBuffer(GL_COPY_WRITE_BUFFER, buffer)
{}
thread = threading.Thread(target=ctypes.memset, args=(address, 0, 1 << 23), name="decoder")
thread.start()
thread.join()
"""


@pytest.mark.needs("gl")
@pytest.mark.parametrize(
    "code",
    ["glDeleteBuffers(1, [buffer])", "glUnmapBuffer(GL_COPY_WRITE_BUFFER); glDeleteBuffers(1, [buffer])"],
)
def test_a_crash_names_the_line_that_deleted_a_mapped_buffer(code: str, tmp_path: Path) -> None:
    path = tmp_path / "app.rec"
    done = run(tmp_path, DELETED.format(code), LIFECYCLE_RECORDER=str(path))
    assert done.rc == -signal.SIGSEGV, done
    suspect = analyse(read(path)).suspects[0]
    assert (suspect.rule, suspect.life.type) == ("address", "mapping of a buffer")
    assert suspect.site.endswith("app.py:11")
    assert suspect.other_site.endswith("app.py:9")
    assert "released on MainThread" in suspect.why
    assert "at app.py:11" in suspect.why
