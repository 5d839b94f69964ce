"""Qt's contexts, adopted, as programs of PySide6: each in a process of its own, since there is one application for
a process, on X11, for which Xvfb is started. (Qt's platform without windows composes no widgets.)"""

from __future__ import annotations

from functools import cache

import pytest

from tests.support import display, run_python

pytestmark = pytest.mark.needs("qt-gl")

START = """
    import gc, sys, threading
    from OpenGL import GL
    from PySide6.QtCore import QEvent
    from PySide6.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext, QSurfaceFormat
    from PySide6.QtOpenGL import QOpenGLWindow
    from PySide6.QtOpenGLWidgets import QOpenGLWidget
    from PySide6.QtWidgets import QApplication, QMainWindow
    from lifecycle import SafetyManager
    from lifecycle.errors import QueueLostError, WrongContextError
    from lifecycle.integrations.gpu import opengl
    from lifecycle.integrations.gpu.errors import GLError
    from lifecycle.integrations.gpu.qt import adopt

    application = QApplication(sys.argv)
    manager = SafetyManager(name="qt")

    def spin(until=lambda: False):
        for _ in range(60):
            application.processEvents()
            if until():
                return True
        return False

    def destroy(view):
        view.deleteLater()
        del view
        application.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def texture(domain):
        name = int(GL.glGenTextures(1))
        GL.glBindTexture(GL.GL_TEXTURE_2D, name)
        return domain.own("texture", name, size=4)

    def vertex_array(domain):
        name = int(GL.glGenVertexArrays(1))
        GL.glBindVertexArray(name)
        return domain.own("vertex_array", name)

    def elsewhere(call):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    class View(QOpenGLWidget):
        def __init__(self):
            super().__init__()
            self.domains, self.reasons = [], []

        def initializeGL(self):
            domain = adopt(self, manager=manager)
            assert adopt(self) is domain and opengl.adopt(self.context()) is domain
            domain.on_lost.append(lambda lost: self.reasons.append(lost.lost_reason))
            self.domains.append(domain)

        def paintGL(self):
            GL.glClear(GL.GL_COLOR_BUFFER_BIT)

    def shown():
        # a window and the view in it, whose context is current
        window, view = QMainWindow(), View()
        window.setCentralWidget(view)
        window.show()
        assert spin(lambda: view.domains)
        view.makeCurrent()
        return window, view
"""


@cache
def environment() -> dict[str, str]:
    return {
        **display(),
        "QT_QPA_PLATFORM": "xcb",
        "PYOPENGL_PLATFORM": "glx",
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }


def run(program: str) -> list[str]:
    return run_python(START + program, env=environment()).check().splitlines()


def test_a_widget_that_is_moved_gets_a_new_domain_and_old_names_hit_nothing() -> None:
    said = run(
        """
    first, second = QMainWindow(), QMainWindow()
    view = View()
    first.setCentralWidget(view)
    first.show(), second.show()
    assert spin(lambda: view.domains)
    view.makeCurrent()
    old = view.domains[0]
    closed, kept, shared = texture(old), texture(old), texture(old)
    share = shared.share()
    shared.close()
    with old.submission() as work:
        work.use(kept)
    elsewhere(closed.close)
    print("before", closed.state, kept.state)
    second.setCentralWidget(view)                      # undocked: another window, another context
    assert spin(lambda: len(view.domains) == 2)
    new = view.domains[-1]
    print("after", closed.state, kept.state, share.state, view.reasons, new is not old)
    view.makeCurrent()
    fresh = [texture(new) for _ in range(5)]
    print("same names", bool({one.native for one in fresh} & {closed.native, kept.native, shared.native}))
    elsewhere(share.close)
    kept.close()
    new.drain()
    print("alive", all(GL.glIsTexture(one.native) for one in fresh), [one.state for one in fresh] == ["valid"] * 5)
    try:
        texture(old)
    except QueueLostError as error:
        print("adopt the context that took its place" in str(error))
    for one in fresh:
        one.close()
    view.makeCurrent()
    new.drain()
    print("gone", not any(GL.glIsTexture(one.native) for one in fresh))
    destroy(view)
    print("end", bool(new.lost_reason), manager.close().ok)
    """
    )
    assert said == [
        "before due valid",
        "after released orphaned orphaned ['it was closed'] True",
        "same names True",
        "alive True True",
        "True",
        "gone True",
        "end True True",
    ]


def test_without_it_a_late_delete_of_an_old_name_deletes_the_new_widgets_texture() -> None:
    said = run(
        """
    class Plain(QOpenGLWidget):
        made = []
        def initializeGL(self):
            self.made.append(int(GL.glGenTextures(1)))
            GL.glBindTexture(GL.GL_TEXTURE_2D, self.made[-1])
    first, second = QMainWindow(), QMainWindow()
    view = Plain()
    first.setCentralWidget(view)
    first.show(), second.show()
    assert spin(lambda: view.made)
    second.setCentralWidget(view)
    assert spin(lambda: len(view.made) == 2)
    view.makeCurrent()
    old, new = view.made
    GL.glDeleteTextures([old])                         # what a late __del__ does
    print(old == new, bool(GL.glIsTexture(new)))
    """
    )
    assert said == ["True False"]


def test_behind_each_frame_the_domain_is_drained_with_the_views_context_current() -> None:
    said = run(
        """
    window, view = shown()
    one, other = texture(view.domains[0]), texture(view.domains[0])
    elsewhere(one.close)
    view.doneCurrent()
    elsewhere(other.close)
    print(one.state, other.state, QOpenGLContext.currentContext())
    view.update()
    assert spin(lambda: other.state == "released")
    print(one.state, other.state, QOpenGLContext.currentContext() is view.context())
    """
    )
    assert said == ["due due None", "released released False"]


def test_a_context_by_itself_is_closed_before_it_is_destroyed() -> None:
    said = run(
        """
    surface = QOffscreenSurface()
    surface.create()
    context, other = QOpenGLContext(), QOpenGLContext()
    other.setShareContext(context)
    context.create(), other.create()
    try:
        adopt(context)
    except GLError as error:
        print("not current" in str(error))
    context.makeCurrent(surface)
    domain = adopt(context, manager=manager)
    shared, own = texture(domain), vertex_array(domain)
    other.makeCurrent(surface)
    beside = adopt(other, manager=manager)
    print(beside is not domain, beside.shared_queue is domain.shared_queue)
    elsewhere(own.close)
    del context                                        # Python's reference was the last: Qt destroys it
    gc.collect()
    print(bool(domain.lost_reason), own.state, shared.state, other is QOpenGLContext.currentContext())
    print(shared.close(), bool(GL.glIsTexture(shared.native)))
    other.doneCurrent()
    other.makeCurrent(surface)
    print(beside.close(), manager.close().ok)
    """
    )
    assert said[0] == "True"
    assert said[1] == "True True"
    assert said[2].split()[0] == "True"
    assert said[2].split()[2:] == ["valid", "True"]
    assert said[3:] == ["True False", "0 True"]


def test_a_widget_that_is_destroyed_is_closed_in_order() -> None:
    said = run(
        """
    window, view = shown()
    due, reasons = texture(view.domains[0]), view.reasons
    elsewhere(due.close)
    view.doneCurrent()
    destroy(view)
    print(due.state, reasons)
    """
    )
    assert said == ["released ['it was closed']"]


def test_memory_that_is_mapped_as_the_widget_goes_is_given_up_and_named() -> None:
    said = run(
        """
    window, view = shown()
    name, reasons, domain = int(GL.glGenBuffers(1)), view.reasons, view.domains[0]
    GL.glBindBuffer(GL.GL_ARRAY_BUFFER, name)
    GL.glBufferData(GL.GL_ARRAY_BUFFER, 64, None, GL.GL_STATIC_DRAW)
    mapping = domain.map(domain.own("buffer", name), 0, 64)
    destroy(view)
    print(mapping.handle.state, "memory of it is still mapped" in reasons[0], len(reasons))
    """
    )
    assert said == ["orphaned True 1"]


def test_what_is_no_view_is_refused() -> None:
    said = run(
        """
    for bad in (object(), None, 3, QMainWindow(), View()):
        try:
            adopt(bad)
        except GLError as error:
            print("initializeGL" in str(error))
    """
    )
    assert said == ["True"] * 5
