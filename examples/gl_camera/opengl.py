"""Upload and processors in OpenGL, in whatever context is current."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from OpenGL import GL

from examples.gl_camera.report import Sums
from examples.gl_camera.source import Picture
from lifecycle import Handle, Submission
from lifecycle.integrations.gpu.opengl import Domain

SLOTS = 3

VERTEX = """#version 430
void main() {
    gl_Position = vec4(float(gl_VertexID & 1) * 4.0 - 1.0, float(gl_VertexID & 2) * 2.0 - 1.0, 0.0, 1.0);
}"""
UPLOAD = """#version 430
layout(std430, binding=0) readonly buffer Frame { uint data[]; };
uniform int width;
uniform int effort;
out vec4 colour;
void main() {
    int at = int(gl_FragCoord.y) * width + int(gl_FragCoord.x);
    float x = float(at);
    for (int i = 0; i < effort; i++) { x = sin(x) + cos(x * 1.3); }   // a device that is busy for a while
    vec4 found = unpackUnorm4x8(data[at]);
    colour = x > 1.0e9 ? vec4(0.0) : found;
}"""
PROCESSOR = """#version 430
uniform sampler2D source;
out vec4 colour;
vec4 at(ivec2 d) {
    return texelFetch(source, clamp(ivec2(gl_FragCoord.xy) + d, ivec2(0), textureSize(source, 0) - 1), 0);
}
void main() { BODY }"""
PROCESSORS = {
    "grey": "colour = vec4(vec3(dot(at(ivec2(0)).rgb, vec3(0.3, 0.6, 0.1))), 1.0);",
    "invert": "colour = vec4(1.0 - at(ivec2(0)).rgb, 1.0);",
    "edges": "colour = vec4(abs(at(ivec2(1, 0)) - at(ivec2(-1, 0))).rgb * 2.0, 1.0);",
    "blur": "colour = (at(ivec2(-1, 0)) + at(ivec2(1, 0)) + at(ivec2(0, 1)) + at(ivec2(0, -1))) / 4.0;",
}


@attrs.define
class Target:
    """A texture and the framebuffer that draws into it."""

    texture: Handle[int]
    framebuffer: Handle[int]

    def handles(self) -> tuple[Handle[int], Handle[int]]:
        """Both."""
        return self.framebuffer, self.texture


@attrs.define
class Flying:
    """A picture that the device still makes."""

    work: Submission
    target: Target
    given: Picture


class Renderer:
    """All that lives in one context."""

    def __init__(
        self,
        domain: Domain,
        size: tuple[int, int],
        sums: Sums,
        safe: bool = True,
        effort: int = 150,
        out: Path | None = None,
    ) -> None:
        self.domain = domain
        self.size = size
        self.sums = sums
        self.safe = safe
        self.effort = effort
        self.out = out
        self.ring = self.domain.ring(size[0] * size[1] * 4, SLOTS if safe else 1)
        self.upload = self._program(UPLOAD)
        self.array = self.domain.own("vertex_array", self._vertex_array())
        self.free: deque[Target] = deque(self._target() for _ in range(SLOTS))
        self.scratch = (self._target(), self._target())
        self.processors: dict[str, Handle[int]] = {}
        self.flying: deque[Flying] = deque()
        self.shown: Target = self.scratch[0]

    # -- processors, while it runs ---------------------------------------------------------------------------

    def toggle(self, name: str) -> None:
        """Add a processor, or remove it: closing is right while the device still uses its program."""
        known = self.processors.pop(name, None)
        if known is not None:
            known.close()
            self.sums.removed += 1
        else:
            self.processors[name] = self._program(PROCESSOR.replace("BODY", PROCESSORS[name]))
            self.sums.added += 1

    # -- a frame ---------------------------------------------------------------------------------------------

    def draw(self, frame: Picture) -> None:
        """Write a frame into a slot, and have the device read it there."""
        while not self.free:
            self.domain.timeline.wait(0.002)
            self.look()
        slot = self.ring.acquire(timeout=60)
        np.frombuffer(self.ring.view(slot), np.uint8).reshape(frame.shape)[:] = frame
        target = self.free.popleft()
        with self.domain.state_guard("program", "framebuffer", "vertex_array", "viewport", "buffers"):
            with self.domain.submission() as work:
                if self.safe:
                    work.use(slot)  # the device has it until its fence has signalled
                self._upload(work, target, slot)
                self.shown = self._process(work, target)
        slot.close()
        GL.glFlush()
        self.flying.append(Flying(work, target, frame.copy()))
        self.domain.drain()
        self.look()

    def _upload(self, work: Submission, target: Target, slot: Handle[int]) -> None:
        width, height = self.size
        program = work.use(self.upload)
        GL.glViewport(0, 0, width, height)
        GL.glBindVertexArray(work.use(self.array))
        GL.glUseProgram(program)
        GL.glUniform1i(GL.glGetUniformLocation(program, "width"), width)
        GL.glUniform1i(GL.glGetUniformLocation(program, "effort"), self.effort)
        name = work.use(self.ring.buffer)
        GL.glBindBufferRange(GL.GL_SHADER_STORAGE_BUFFER, 0, name, self.ring.offset(slot), width * height * 4)
        self._draw_into(work, target)

    def _process(self, work: Submission, target: Target) -> Target:
        """What the last processor drew into."""
        drawn = target
        for number, program in enumerate(self.processors.values()):
            into = self.scratch[number % 2]
            GL.glUseProgram(work.use(program))
            GL.glActiveTexture(GL.GL_TEXTURE0)
            GL.glBindTexture(GL.GL_TEXTURE_2D, work.use(drawn.texture))
            self._draw_into(work, into)
            drawn = into
        GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        return drawn

    def _draw_into(self, work: Submission, target: Target) -> None:
        work.use(target.texture)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, work.use(target.framebuffer))
        GL.glDrawArrays(GL.GL_TRIANGLES, 0, 3)

    def look(self) -> None:
        """Compare what the device has made with what it was given."""
        while self.flying and self.flying[0].work.done:
            done = self.flying.popleft()
            self.sums.compare(self.domain.read_back(done.target.texture), done.given, self.out)
            self.free.append(done.target)

    def present(self, framebuffer: int, width: int, height: int) -> None:
        """Show the last picture in the framebuffer of a window."""
        with self.domain.submission() as work, self.shown.framebuffer.lease() as drawn:
            work.use(self.shown.framebuffer)
            GL.glBindFramebuffer(GL.GL_READ_FRAMEBUFFER, drawn)
            GL.glBindFramebuffer(GL.GL_DRAW_FRAMEBUFFER, framebuffer)
            GL.glBlitFramebuffer(
                0, self.size[1], self.size[0], 0, 0, 0, width, height, GL.GL_COLOR_BUFFER_BIT, GL.GL_LINEAR
            )
            GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, framebuffer)

    # -- the end ---------------------------------------------------------------------------------------------

    def handles(self) -> list[Handle[int]]:
        """Everything it owns."""
        targets = (*self.free, *self.scratch, *(each.target for each in self.flying))
        return [
            self.upload,
            self.array,
            *self.processors.values(),
            *(handle for target in targets for handle in target.handles()),
        ]

    def close(self) -> None:
        """In order: what the device still has is given back first."""
        self.domain.timeline.wait(60)
        self.look()
        self.sums.waits += self.ring.waits
        for handle in self.handles():
            handle.close()
        self.ring.close()
        self.domain.drain()
        self.domain.close()

    def lost(self, reason: str) -> list[Handle[int]]:
        """The context went without a word: nothing of it is deleted any more. What it owned, for those who
        close it late."""
        self.sums.waits += self.ring.waits
        self.sums.orphaned += self.domain.lost(reason)
        return [*self.handles(), self.ring.buffer]

    # -- making ----------------------------------------------------------------------------------------------

    def _target(self) -> Target:
        texture = int(GL.glGenTextures(1))
        GL.glBindTexture(GL.GL_TEXTURE_2D, texture)
        GL.glTexStorage2D(GL.GL_TEXTURE_2D, 1, GL.GL_RGBA8, *self.size)
        GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        owned = self.domain.own("texture", texture, size=self.size[0] * self.size[1] * 4)
        framebuffer = int(GL.glGenFramebuffers(1))
        before = GL.glGetIntegerv(GL.GL_FRAMEBUFFER_BINDING)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, framebuffer)
        GL.glFramebufferTexture2D(GL.GL_FRAMEBUFFER, GL.GL_COLOR_ATTACHMENT0, GL.GL_TEXTURE_2D, texture, 0)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, before)
        return Target(owned, self.domain.own("framebuffer", framebuffer, parent=owned))

    def _vertex_array(self) -> int:
        name = int(GL.glGenVertexArrays(1))
        GL.glBindVertexArray(name)
        GL.glBindVertexArray(0)
        return name

    def _program(self, fragment: str) -> Handle[int]:
        program: Any = GL.glCreateProgram()
        for kind, text in ((GL.GL_VERTEX_SHADER, VERTEX), (GL.GL_FRAGMENT_SHADER, fragment)):
            shader = GL.glCreateShader(kind)
            GL.glShaderSource(shader, text)
            GL.glCompileShader(shader)
            if not GL.glGetShaderiv(shader, GL.GL_COMPILE_STATUS):
                raise RuntimeError(GL.glGetShaderInfoLog(shader))
            GL.glAttachShader(program, shader)
            GL.glDeleteShader(shader)
        GL.glLinkProgram(program)
        return self.domain.own("program", int(program))


def living(handles: list[Handle[int]]) -> int:
    """How many of these textures the current context knows."""
    return sum(bool(GL.glIsTexture(handle.native)) for handle in handles if handle.type_name == "gl.texture")
