"""The same in wgpu: upload, a processor, read back; the device destroyed in the middle and made again.

wgpu copies what it is given, so there is no torn picture to show. What there is instead: a texture destroyed
before the commands that use it are submitted ends the process (``--unsafe``), and is put off by the guard.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import wgpu

from examples.gl_camera.report import Sums
from examples.gl_camera.source import Picture
from lifecycle import Handle, SafetyManager, Submission
from lifecycle.integrations.gpu.wgpu import guard, mapped, own, timeline

SLOTS = 3
SHADER = """
@group(0) @binding(0) var given: texture_2d<f32>;
@group(0) @binding(1) var made: texture_storage_2d<rgba8unorm, write>;
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let size = textureDimensions(given);
    if (at.x < size.x && at.y < size.y) {
        let c = textureLoad(given, vec2<i32>(at.xy), 0);
        textureStore(made, vec2<i32>(at.xy), BODY);
    }
}"""
PROCESSORS = {
    "plain": "c",
    "grey": "vec4<f32>(vec3<f32>(dot(c.rgb, vec3<f32>(0.3, 0.6, 0.1))), 1.0)",
    "invert": "vec4<f32>(vec3<f32>(1.0) - c.rgb, 1.0)",
}


@attrs.define
class Flying:
    """A picture that the device still makes."""

    work: Submission
    handles: tuple[Handle[Any], ...]
    back: Handle[Any]
    given: Picture
    plain: bool


def new_device() -> Any:
    """A device of its own."""
    return wgpu.gpu.request_adapter_sync().request_device_sync()


class Renderer:
    """All that lives in one device."""

    def __init__(self, manager: SafetyManager, size: tuple[int, int], sums: Sums, out: Path | None) -> None:
        self.manager = manager
        self.size = size
        self.sums = sums
        self.out = out
        self.device: Any = guard(new_device())
        self.timeline = timeline(self.device, manager=manager)
        self.pipelines: dict[str, Handle[Any]] = {}
        self.processors: dict[str, None] = {}
        self.flying: deque[Flying] = deque()
        self.stride = -(-size[0] * 4 // 256) * 256
        """Bytes of a row of what is copied out: a multiple of 256."""

    def toggle(self, name: str) -> None:
        """Add a processor, or remove it. Names that wgpu has not are taken for ``grey``."""
        name = name if name in PROCESSORS else "grey"
        if name in self.processors:
            del self.processors[name]
            self.pipelines.pop(name).close()
            self.sums.removed += 1
        else:
            self.processors[name] = None
            self.sums.added += 1

    def _pipeline(self, name: str) -> Handle[Any]:
        known = self.pipelines.get(name)
        if known is None:
            module = self.device.create_shader_module(code=SHADER.replace("BODY", PROCESSORS[name]))
            made = self.device.create_compute_pipeline(
                layout="auto", compute={"module": module, "entry_point": "main"}
            )
            known = self.pipelines[name] = own(made, manager=self.manager)
        return known

    def draw(self, frame: Picture) -> None:
        """Give a frame to the device; the last processor's picture comes back."""
        while len(self.flying) >= SLOTS:
            self.sums.waits += 1
            self.timeline.wait(0.05)
            self.look()
        width, height = self.size
        usage = wgpu.TextureUsage
        size = (width, height, 1)
        given = self._own(
            self.device.create_texture(
                size=size, format="rgba8unorm", usage=usage.COPY_DST | usage.TEXTURE_BINDING
            )
        )
        with given.lease() as texture:
            self.device.queue.write_texture(
                {"texture": texture},
                np.ascontiguousarray(frame),
                {"bytes_per_row": width * 4, "rows_per_image": height},
                size,
            )
        textures = [given]
        encoder = self.device.create_command_encoder()
        with self.timeline.submission() as work:
            for name in ("plain", *self.processors):
                made = self._own(
                    self.device.create_texture(
                        size=size,
                        format="rgba8unorm",
                        usage=usage.STORAGE_BINDING | usage.TEXTURE_BINDING | usage.COPY_SRC,
                    )
                )
                self._dispatch(work, encoder, self._pipeline(name), textures[-1], made)
                textures.append(made)
            back = self._own(
                self.device.create_buffer(
                    size=self.stride * height, usage=wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.MAP_READ
                )
            )
            encoder.copy_texture_to_buffer(
                {"texture": work.use(textures[-1])},
                {"buffer": work.use(back), "bytes_per_row": self.stride, "rows_per_image": height},
                size,
            )
            self.device.queue.submit([encoder.finish()])
        for each in textures:
            each.close()  # False: the device still has it
        self.flying.append(Flying(work, tuple(textures), back, frame.copy(), not self.processors))
        self.look()

    def _own(self, obj: Any) -> Handle[Any]:
        return own(obj, manager=self.manager)

    def _dispatch(
        self, work: Submission, encoder: Any, pipeline: Handle[Any], given: Handle[Any], made: Handle[Any]
    ) -> None:
        group = self.device.create_bind_group(
            layout=work.use(pipeline).get_bind_group_layout(0),
            entries=[
                {"binding": 0, "resource": work.use(given).create_view()},
                {"binding": 1, "resource": work.use(made).create_view()},
            ],
        )
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(work.use(pipeline))
        compute.set_bind_group(0, group)
        compute.dispatch_workgroups(-(-self.size[0] // 8), -(-self.size[1] // 8))
        compute.end()

    def look(self) -> None:
        """Compare what came back with what was given, where no processor changed it."""
        width, height = self.size
        while self.flying and self.flying[0].work.done:
            done = self.flying.popleft()
            with done.back.lease() as buffer, mapped(buffer, "read") as memory:
                rows = np.frombuffer(memory, np.uint8).reshape(height, self.stride)
                made = rows[:, : width * 4].reshape(height, width, 4).copy()
                del rows
            done.back.close()
            self.sums.compare(made, done.given if done.plain else made, self.out)

    def close(self) -> None:
        """In order."""
        self.timeline.wait(60)
        self.look()
        for pipeline in self.pipelines.values():
            pipeline.close()
        self.device.destroy()

    def lost(self, reason: str) -> list[Handle[Any]]:
        """The device is destroyed with work in flight."""
        late = [*self.pipelines.values(), *(each.back for each in self.flying)]
        self.device.destroy()
        self.sums.orphaned += self.timeline.lost(reason)
        return late


def abort() -> None:
    """What the guard prevents: this ends the process."""
    device = new_device()
    usage = wgpu.TextureUsage
    texture = device.create_texture(
        size=(64, 64, 1), format="rgba8unorm", usage=usage.COPY_SRC | usage.COPY_DST
    )
    buffer = device.create_buffer(size=64 * 256, usage=wgpu.BufferUsage.COPY_DST)
    encoder = device.create_command_encoder()
    encoder.copy_texture_to_buffer(
        {"texture": texture}, {"buffer": buffer, "bytes_per_row": 256, "rows_per_image": 64}, (64, 64, 1)
    )
    commands = encoder.finish()
    buffer.destroy()
    device.queue.submit([commands])
