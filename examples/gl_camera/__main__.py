"""The program: what is asked for, and the loop."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from examples.gl_camera.report import Sums, show_in_flight, show_sums
from examples.gl_camera.source import Picture, frames
from lifecycle import SafetyManager

TOGGLES = ("grey", "edges", "invert", "grey", "blur", "edges")
"""Processors come and go in this order, one every so many frames."""


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m examples.gl_camera", description=__doc__)
    option = parser.add_argument
    option("--frames", type=int, default=90, help="how many")
    option("--size", default="320x240", help="width x height")
    option("--device", help="a camera, such as /dev/video0; a test picture without")
    option("--lose-at", type=int, default=45, help="the frame before which the context is lost; 0: never")
    option("--toggle-every", type=int, help="frames between two changes of processors; 0: none")
    option("--effort", type=int, help="how long the device is busy with each frame")
    option("--unsafe", action="store_true", help="without the safety: torn pictures, or an abort")
    option("--wgpu", action="store_true", help="wgpu in the place of OpenGL")
    option("--window", action="store_true", help="in a window of Qt")
    option("--out", type=Path, default=Path("out/gl_camera-torn.png"), help="where a torn picture is put")
    option("--abort", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.effort is None:
        options.effort = 300 if options.unsafe else 150
    if options.toggle_every is None:  # processors make a software renderer wait, and hide what is torn
        options.toggle_every = 0 if options.unsafe else 10
    return options


class Keys:
    """Lines of the terminal, as keys: ``c`` loses the context, ``g i e b`` are processors, ``q`` ends."""

    def __init__(self) -> None:
        self.pressed: deque[str] = deque()
        if sys.stdin is not None and sys.stdin.isatty():
            print("keys (with Return): c loses the context; g, i, e, b add or remove a processor; q ends")
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.pressed.extend(line.strip())

    def take(self) -> str:
        """The next one, empty if there is none."""
        return self.pressed.popleft() if self.pressed else ""


def step(renderer: Any, number: int, every: int) -> None:
    """Processors come and go."""
    if every and number % every == 0:
        renderer.toggle(TOGGLES[number // every % len(TOGGLES)])


def offscreen(
    options: argparse.Namespace, manager: SafetyManager, sums: Sums, pictures: Iterator[Picture]
) -> None:
    """Without a window: one context, or device, after the other."""
    names = {"g": "grey", "i": "invert", "e": "edges", "b": "blur"}
    keys = Keys()
    with ExitStack() as stack:
        renderer = _begin(options, manager, sums, stack)
        for number, picture in enumerate(islice(pictures, options.frames)):
            key = keys.take()
            if key == "q":
                break
            if key in names:
                renderer.toggle(names[key])
            if key == "c" or (number and number == options.lose_at):
                show_in_flight(manager, _timeline(renderer), "before the context is lost")
                late, names_of = _lose(renderer, stack), list(renderer.processors)
                renderer = _begin(options, manager, sums, stack)
                for name in names_of:
                    renderer.toggle(name)
                sums.contexts += 1
                for handle in late:
                    handle.close()
                sums.late += len(late)
                _check_alive(renderer)
            renderer.draw(picture)
            step(renderer, number, options.toggle_every)
        show_in_flight(manager, _timeline(renderer), "before the end")
        renderer.close()


def _timeline(renderer: Any) -> Any:
    return renderer.timeline if hasattr(renderer, "timeline") else renderer.domain.timeline


def _begin(options: argparse.Namespace, manager: SafetyManager, sums: Sums, stack: ExitStack) -> Any:
    size = _size(options)
    if options.wgpu:
        from examples.gl_camera import webgpu

        return webgpu.Renderer(manager, size, sums, options.out)
    from examples.gl_camera.opengl import Renderer
    from lifecycle.integrations.gpu.offscreen import offscreen as context
    from lifecycle.integrations.gpu.opengl import adopt

    stack.enter_context(context())
    domain = adopt(name="camera", manager=manager)
    return Renderer(domain, size, sums, not options.unsafe, options.effort, options.out)


def _lose(renderer: Any, stack: ExitStack) -> list[Any]:
    """The context is destroyed, or the device, and only then is it said."""
    stack.pop_all().close()
    late: list[Any] = renderer.lost("the show destroyed it")
    return late


def _check_alive(renderer: Any) -> None:
    """The new context's textures are there, though late releases of the same names have come."""
    if hasattr(renderer, "domain"):
        from examples.gl_camera.opengl import living

        renderer.domain.drain()
        mine = [handle for handle in renderer.handles() if handle.type_name == "gl.texture"]
        assert living(mine) == len(mine), "a late release has hit a new object"


def _size(options: argparse.Namespace) -> tuple[int, int]:
    width, height = map(int, options.size.split("x"))
    return width, height


def in_window(
    options: argparse.Namespace, manager: SafetyManager, sums: Sums, pictures: Iterator[Picture]
) -> None:
    """In a window of Qt."""
    from examples.gl_camera import window
    from examples.gl_camera.opengl import Renderer
    from lifecycle.integrations.gpu.qt import adopt

    def new(view: Any) -> Renderer:
        domain = adopt(view, name="camera", manager=manager)  # the domain before it, if any, is closed by now
        return Renderer(domain, _size(options), sums, not options.unsafe, options.effort, options.out)

    def each(renderer: Renderer, number: int) -> None:
        step(renderer, number, options.toggle_every)

    window.run(pictures, options.frames, options.lose_at, new, each)


def without_the_guard() -> int:
    """wgpu unguarded, in a process of its own."""
    command = [sys.executable, "-m", "examples.gl_camera", "--abort"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    print("without the guard: a buffer destroyed between recording and submit")
    print(f"the process ended with {ended.returncode}{' (SIGABRT)' if ended.returncode == -6 else ''}")
    return 0 if ended.returncode else 1


def main() -> int:
    """Run it; 0 if it ended as it should."""
    options = arguments()
    if options.abort:
        from examples.gl_camera import webgpu

        webgpu.abort()
        return 0
    if options.wgpu and options.unsafe:
        return without_the_guard()
    if not options.window:
        os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    manager, camera, sums = SafetyManager(name="show"), SafetyManager(name="camera"), Sums()
    pictures = frames(camera, *_size(options), options.device)
    try:
        (in_window if options.window else offscreen)(options, manager, sums, pictures)
    finally:
        close = getattr(pictures, "close", None)
        if close is not None:
            close()
    clean = show_sums(sums, manager) and camera.close().ok
    return 0 if clean and (options.unsafe or not sums.torn) else 1


if __name__ == "__main__":
    sys.exit(main())
