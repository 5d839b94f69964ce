"""pyglet and vispy, adopted by one line, as programs on real OpenGL: each in a process of its own, since a toolkit
is one for a process."""

from __future__ import annotations

import pytest

from tests.support import run_python

ENVIRONMENT = {"PYOPENGL_PLATFORM": "egl", "EGL_PLATFORM": "surfaceless", "LIBGL_ALWAYS_SOFTWARE": "1"}


PYGLET = """
    import ctypes, gc, pyglet
    pyglet.options.headless = True
    from pyglet import gl
    window = pyglet.window.Window(64, 64, visible=False)
    window.switch_to()
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetCurrentDisplay.restype = ctypes.c_void_p
    egl.eglMakeCurrent.argtypes = [ctypes.c_void_p] * 4
    kind = type(window.context)
    ADOPT
    def living():
        return sum(bool(gl.glIsTexture(name)) for name in range(1, 200))
    before = living()
    textures = [pyglet.image.Texture.create(4, 4) for _ in range(10)]
    assert living() == before + 10
    egl.eglMakeCurrent(egl.eglGetCurrentDisplay(), None, None, None)   # another thread has it, or nobody
    del textures
    gc.collect()
    window.switch_to()
    print("left", living() - before)
    texture = pyglet.image.Texture.create(4, 4)
    del texture
    print("then", living() - before, isinstance(window.context, kind))
"""


@pytest.mark.needs("pyglet")
def test_pyglet_leaks_what_is_dropped_where_its_context_is_not_current() -> None:
    assert "left 10" in run_python(PYGLET.replace("ADOPT", ""), env=ENVIRONMENT).check()


@pytest.mark.needs("pyglet")
def test_pyglet_adopted_deletes_it_at_the_next_switch() -> None:
    adopt = (
        "from lifecycle.integrations.gpu.pyglet import adopt; domain = adopt(window.context); "
        "assert adopt(window.context) is domain"
    )
    program = PYGLET.replace("ADOPT", adopt)
    said = run_python(program, env=ENVIRONMENT).check()
    assert "left 0" in said
    assert "then 0 True" in said


@pytest.mark.needs("pyglet")
def test_what_is_no_context_of_pyglet_is_refused() -> None:
    run_python(
        """
        from lifecycle.integrations.gpu.errors import GLError
        from lifecycle.integrations.gpu.pyglet import adopt
        try:
            adopt(object())
        except GLError as error:
            assert "window.context" in str(error)
        else:
            raise AssertionError("taken")
        """
    ).check()


@pytest.mark.needs("vispy")
def test_vispy_deletes_behind_the_next_draw_and_gives_up_as_it_closes() -> None:
    said = run_python(
        """
        import threading, warnings
        warnings.simplefilter("ignore")
        import vispy
        from vispy import app, gloo
        from OpenGL import GL
        from lifecycle import SafetyManager
        from lifecycle.integrations.gpu.errors import GLError
        from lifecycle.integrations.gpu.vispy import adopt
        app.use_app("egl")
        canvas = app.Canvas(size=(64, 64), show=True)
        manager = SafetyManager(name="canvas")
        try:
            adopt(object())
        except GLError:
            print("refused")
        domain = adopt(canvas, manager=manager)

        @canvas.connect
        def on_draw(event):
            gloo.clear("red")

        def texture():
            name = int(GL.glGenTextures(1))
            GL.glBindTexture(GL.GL_TEXTURE_2D, name)
            return domain.own("texture", name)

        first, second = texture(), texture()
        thread = threading.Thread(target=first.close)
        thread.start()
        thread.join()
        print(first.state)
        canvas.events.draw()
        print(first.state)
        canvas.close()
        print(domain.lost_reason, "|", second.state, manager.close().ok)
        """,
        env=ENVIRONMENT,
    ).check()
    assert said.split("\n")[:3] == ["refused", "due", "released"]
    assert "it was closed | orphaned True" in said
