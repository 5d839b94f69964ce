"""Nothing is left on the GPU: the block and the fixture of pytest's plugin, on tests that really leave something,
with OpenGL and wgpu as witnesses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import SafetyManager
from lifecycle.testing import GPULeaksFound, assert_no_gpu_leaks
from tests.gpu import names
from tests.support import run_python

if TYPE_CHECKING:
    from tests.gpu.contexts import Context

pytest_plugins = ["pytester"]

GL = """
    import threading
    import pytest
    from lifecycle import SafetyManager
    from lifecycle.integrations.gpu.offscreen import offscreen
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    manager = SafetyManager(name="inner")
    kept = []

    @pytest.fixture
    def context():
        with contexts.current():
            yield

    @pytest.fixture
    def domain(context):
        with adopt(manager=manager) as domain:
            yield domain

    def test_clean(no_gpu_leaks):
        with contexts.current(), adopt(manager=manager) as domain:
            with domain.own("texture", names.texture()):
                pass
            with domain.own("framebuffer", names.framebuffer()):
                pass

    def test_texture(domain, no_gpu_leaks):
        kept.append(domain.own("texture", names.texture()))

    def test_due(domain, no_gpu_leaks):
        buffer = domain.own("buffer", names.buffer(64))
        thread = threading.Thread(target=buffer.close)
        thread.start()
        thread.join()

    def test_raw(context, no_gpu_leaks):
        names.buffer(64)

    def test_adopted(context, no_gpu_leaks):
        kept.append(adopt(manager=manager))

    def test_context(no_gpu_leaks):
        kept.append(offscreen())
        kept[-1].__enter__()

    def test_ignored(domain, no_gpu_leaks):
        kept.append(domain.own("texture", names.texture()))
        no_gpu_leaks.ignore(kept[-1])

    def test_failed(domain, no_gpu_leaks):
        names.buffer(64)
        assert False
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\nlifecycle_leak_timeout = 0.2\n")
    return pytester


def run(inner: pytest.Pytester, tests: str) -> pytest.RunResult:
    inner.makepyfile(tests)
    return inner.runpytest_inprocess(
        "-p", "lifecycle.testing.plugin", "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning"
    )


@pytest.mark.needs("gl")
def test_what_is_left_in_opengl_fails_the_test_with_its_line(inner: pytest.Pytester) -> None:
    result = run(inner, GL)
    result.assert_outcomes(passed=7, failed=1, errors=5)
    result.stdout.fnmatch_lines_random(
        [
            "*left on the GPU: object * (gl.texture): valid, made at test_what_is_left_in_opengl*.py:*",
            "*left on the GPU: object * (gl.buffer): due*",
            "*names (1):",
            "*buffer *, made at names.py:*, which OpenGL knows, and no registered object stands for it",
            "*domain 'gl', adopted at test_what_is_left_in_opengl*.py:*, neither closed nor lost*",
            "*a context without a window, made at test_what_is_left_in_opengl*.py:*, not destroyed*",
        ]
    )


WGPU = """
    import wgpu
    from lifecycle import SafetyManager
    from lifecycle.integrations.gpu.wgpu import guard, own
    from tests.gpu.adapters import device

    manager = SafetyManager(name="inner")
    kept = []

    def buffer(device):
        return device.create_buffer(label="forgotten", size=64, usage=wgpu.BufferUsage.COPY_DST)

    def test_clean(no_gpu_leaks):
        made = guard(device())
        with own(buffer(made), manager=manager):
            pass
        made.destroy()

    def test_device(no_gpu_leaks):
        kept.append(device())

    def test_buffer(no_gpu_leaks):
        kept.append(buffer(kept[0]))

    def test_owned(no_gpu_leaks):
        kept.append(own(buffer(kept[0]), manager=manager))
"""


@pytest.mark.needs("wgpu")
def test_what_is_left_in_wgpu_fails_the_test_with_its_line(inner: pytest.Pytester) -> None:
    result = run(inner, WGPU)
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*GPUDevice*, made at *.py:*",
            "*1 more Device (wrappers of wgpu) than before",
            "*1 more Device (native objects of wgpu) than before",
            '*GPUBuffer "forgotten"*, made at test_what_is_left_in_wgpu*.py:*',
            "*1 more Buffer (native objects of wgpu) than before",
            '*object * (wgpu.Buffer "forgotten"): valid, made at test_what_is_left_in_wgpu*.py:*',
        ]
    )


@pytest.mark.needs("gl")
def test_the_block_says_what_is_left_in_parts(context: Context, manager: SafetyManager, gl: Any) -> None:
    from lifecycle.integrations.gpu.opengl import adopt

    before = names.texture()
    with adopt(manager=manager) as domain:
        with pytest.raises(GPULeaksFound) as caught:
            with assert_no_gpu_leaks(timeout=0.0):
                handle = domain.own("texture", names.texture())
                raw = names.vertex_array()
        left = caught.value.left
        assert len(left.objects) == 1
        assert "test_leaks.py:" in left.objects[0]
        # Without a line where pytest's inner run has taken PyOpenGL out of `sys.modules`.
        (name,) = left.names
        words = ", which OpenGL knows, and no registered object stands for it"
        assert re.fullmatch(rf"vertex_array {raw}(, made at names\.py:\d+)?{words}", name)
        assert (left.contexts, left.counts) == ((), ())
        with pytest.raises(ZeroDivisionError), assert_no_gpu_leaks(timeout=0.0):
            handle.share()
            1 / 0
        handle.close()
        gl.glDeleteVertexArrays(1, [raw])

        @assert_no_gpu_leaks(timeout=0.0)
        def clean() -> None:
            domain.own("buffer", names.buffer(64)).close()

        clean()
        # What the library takes for released and the driver still knows is found by the driver alone.
        with pytest.raises(GPULeaksFound, match="no registered object stands for it"):
            with assert_no_gpu_leaks(timeout=0.0):
                domain.own("buffer", names.buffer(64)).detach()
    gl.glDeleteTextures([before])


def test_nothing_is_imported_for_the_question() -> None:
    from tests.support import run_python

    run_python(
        """
        import sys
        from lifecycle.testing import assert_no_gpu_leaks
        with assert_no_gpu_leaks():
            pass
        assert not {"wgpu", "OpenGL", "moderngl", "numpy"} & set(sys.modules)
        """
    ).check()


@pytest.mark.needs("gl", "moderngl")
def test_names_that_nobody_registered_have_the_line_that_made_them() -> None:
    """Also where the program had taken PyOpenGL's functions long before the block, and after a function's first
    call, which PyOpenGL uses to put the address in its place."""
    said = run_python(
        """
        import re, sys
        import moderngl
        from OpenGL import GL
        from OpenGL.GL import *
        from lifecycle.integrations.gpu.offscreen import offscreen
        from lifecycle.testing import GPULeaksFound, assert_no_gpu_leaks

        def calls():
            return [vars(type(one)).get("__call__") for one in (glGenBuffers, glCreateShader, glGenTextures)]

        with offscreen():
            glDeleteShader(glCreateShader(GL_VERTEX_SHADER))
            context = moderngl.create_context()
            glGenBuffers(1)
            before, method = calls(), moderngl.Context.buffer
            try:
                with assert_no_gpu_leaks(timeout=0):
                    first = sys._getframe().f_lineno
                    glBindTexture(GL_TEXTURE_2D, glGenTextures(1))
                    for name in GL.glGenBuffers(2):
                        glBindBuffer(GL_ARRAY_BUFFER, name)
                    glCreateProgram()
                    glCreateProgram()
                    glCreateShader(GL_VERTEX_SHADER)
                    kept = context.simple_framebuffer((4, 4))
            except GPULeaksFound as error:
                for one in error.left.names:
                    kind, line = re.match(r"(\\w+) \\d+, made at <string>:(\\d+), which OpenGL", one).groups()
                    print(kind, int(line) - first)
            print(calls() == before, moderngl.Context.buffer is method)
        """
    ).check()
    assert said.splitlines() == [
        "texture 1",
        "buffer 2",
        "buffer 2",
        "renderbuffer 7",
        "renderbuffer 7",
        "framebuffer 7",
        "program 4",
        "program 5",
        "shader 6",
        "True True",
    ]
