"""In a window of Qt: the widget is moved to another window in the middle, and so gets another context."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QSurfaceFormat
from PySide6.QtOpenGLWidgets import QOpenGLWidget
from PySide6.QtWidgets import QApplication, QMainWindow

from examples.gl_camera.opengl import PROCESSORS, Renderer
from examples.gl_camera.source import Picture


class View(QOpenGLWidget):
    """Shows the frames. Keys: ``c`` another window, and so another context; ``g``, ``i``, ``e``, ``b`` a
    processor; ``q`` the end."""

    def __init__(
        self,
        frames: Iterator[Picture],
        count: int,
        lose_at: int,
        new: Callable[[QOpenGLWidget], Renderer],
        step: Callable[[Renderer, int], None],
    ) -> None:
        super().__init__()
        self.frames, self.count, self.lose_at, self.new, self.step = frames, count, lose_at, new, step
        self.renderers: list[Renderer] = []
        self.windows = [QMainWindow(), QMainWindow()]
        self.shown = 0
        self.error: Exception | None = None
        self.resize(640, 480)

    def move_on(self) -> None:
        """Move to the other window, as a dock does."""
        self.windows.reverse()
        self.windows[0].setCentralWidget(self)
        self.windows[0].show()

    def initializeGL(self) -> None:
        """Called by Qt for each context."""
        self._or_end(self._begin)

    def _begin(self) -> None:
        self.renderers.append(self.new(self))
        if len(self.renderers) > 1:
            self._after_a_change(self.renderers[-2])

    def _or_end(self, call: Callable[[], None]) -> None:
        """What leaves a method that Qt calls is printed, and the program goes on: it is to end."""
        try:
            call()
        except Exception as error:
            self.error = error
            self.count = 0
            QTimer.singleShot(0, QApplication.quit)

    def _after_a_change(self, old: Renderer) -> None:
        sums = old.sums
        sums.contexts += 1
        late = [*old.handles(), old.ring.buffer]
        sums.orphaned += sum(handle.state == "orphaned" for handle in late)
        for handle in late:
            handle.close()
        sums.late += len(late)
        for name in old.processors:
            self.renderers[-1].toggle(name)

    def paintGL(self) -> None:
        """Called by Qt for each picture."""
        if self.shown < self.count:
            self._or_end(self._draw)

    def _draw(self) -> None:
        renderer = self.renderers[-1]
        renderer.draw(next(self.frames))
        scale = self.devicePixelRatio()
        size = int(self.width() * scale), int(self.height() * scale)
        renderer.present(self.defaultFramebufferObject(), *size)
        self.shown += 1
        self.step(renderer, self.shown)
        if self.shown == self.lose_at:
            QTimer.singleShot(0, self.move_on)
        if self.shown == self.count:
            QTimer.singleShot(0, QApplication.quit)

    def keyPressEvent(self, event: Any) -> None:
        """Called by Qt."""
        key = event.text()
        names = {name[0]: name for name in PROCESSORS}
        if key == "c":
            self.move_on()
        elif key == "q":
            QApplication.quit()
        elif key in names:
            self.makeCurrent()
            self.renderers[-1].toggle(names[key])

    def end(self) -> None:
        """Close what lives in the last context, and the windows."""
        if self.renderers:
            self.makeCurrent()
            self.renderers[-1].close()
            self.doneCurrent()
        for window in self.windows:
            window.close()


def run(
    frames: Iterator[Picture],
    count: int,
    lose_at: int,
    new: Callable[[QOpenGLWidget], Renderer],
    step: Callable[[Renderer, int], None],
) -> None:
    """Show so many frames."""
    wanted = QSurfaceFormat()
    wanted.setVersion(4, 5)
    wanted.setProfile(QSurfaceFormat.OpenGLContextProfile.CoreProfile)
    QSurfaceFormat.setDefaultFormat(wanted)
    application = QApplication.instance() or QApplication(sys.argv[:1])
    view = View(frames, count, lose_at, new, step)
    view.move_on()
    timer = QTimer()
    timer.timeout.connect(view.update)
    timer.start(5)
    application.exec()
    timer.stop()
    if view.error is not None:
        raise view.error
    view.end()
