"""wgpu on a real device: each mistake raw, in a process of its own, and guarded."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import ANY_THREAD, HeldError, LifecycleError, SafetyManager
from lifecycle.errors import DuplicateError
from lifecycle.testing import each_interrupt, every_line
from tests.core.adversary import STORM
from tests.support import eventually, run_python

SLOW = pytest.mark.skipif(STORM < 10, reason="minutes on a software renderer: LIFECYCLE_STORM=10 runs it")

pytestmark = pytest.mark.needs("wgpu")

SETUP = '''
import gc, os
from tests.gpu.adapters import device as new_device
import wgpu
U = wgpu.BufferUsage
guarded = os.environ["GUARDED"] == "1"
def make():
    device = new_device()
    if guarded:
        from lifecycle.integrations.gpu.wgpu import guard
        guard(device)
    return device
device = make()
source = device.create_buffer(size=64, usage=U.COPY_SRC | U.COPY_DST)
target = device.create_buffer(size=64, usage=U.MAP_READ | U.COPY_DST)
def record():
    encoder = device.create_command_encoder()
    encoder.copy_buffer_to_buffer(source, 0, target, 0, 64)
    return encoder.finish()
def texture(samples=1):
    usage = wgpu.TextureUsage.RENDER_ATTACHMENT | (wgpu.TextureUsage.COPY_SRC if samples == 1 else 0)
    return device.create_texture(size=(16, 16, 1), format="rgba8unorm", usage=usage, sample_count=samples)
def vertices():
    return device.create_buffer(size=48, usage=U.VERTEX | U.COPY_DST)
def pipeline():
    module = device.create_shader_module(code="""
        @vertex fn vs(@location(0) at: vec4<f32>) -> @builtin(position) vec4<f32> { return at; }
        @fragment fn fs() -> @location(0) vec4<f32> { return vec4<f32>(1.0); }""")
    layout = device.create_pipeline_layout(bind_group_layouts=[])
    attribute = dict(format="float32x4", offset=0, shader_location=0)
    return device.create_render_pipeline(
        layout=layout,
        vertex=dict(module=module, entry_point="vs", buffers=[dict(array_stride=16, attributes=[attribute])]),
        primitive=dict(topology="triangle-list"),
        fragment=dict(module=module, entry_point="fs", targets=[dict(format="rgba8unorm")]),
    )
def begin(encoder, into, resolve=None):
    return encoder.begin_render_pass(color_attachments=[dict(
        view=into.create_view(), resolve_target=resolve and resolve.create_view(), clear_value=(0, 0, 0, 1),
        load_op="clear", store_op="store",
    )])
def draw_with(buffer):
    encoder = device.create_command_encoder()
    drawing = begin(encoder, texture())
    drawing.set_pipeline(pipeline())
    drawing.set_vertex_buffer(0, buffer)
    drawing.draw(3)
    drawing.end()
    return encoder.finish()
def draw_bundle(buffer):
    bundle = device.create_render_bundle_encoder(color_formats=["rgba8unorm"])
    bundle.set_pipeline(pipeline())
    bundle.set_vertex_buffer(0, buffer)
    bundle.draw(3)
    encoder = device.create_command_encoder()
    drawing = begin(encoder, texture())
    drawing.execute_bundles([bundle.finish()])
    drawing.end()
    return encoder.finish()
def resolve_to(target):
    encoder = device.create_command_encoder()
    begin(encoder, texture(4), target).end()
    return encoder.finish()
def draw_to(texture):
    encoder = device.create_command_encoder()
    encoder.begin_render_pass(color_attachments=[dict(
        view=texture.create_view(), resolve_target=None, clear_value=(0, 0, 0, 1), load_op="clear", store_op="store",
    )]).end()
    return encoder.finish()
'''

# What is done; what it raises guarded: a reason, or "" where it is deferred and simply works.
MISTAKES = {
    "submitted-twice": (
        "one = record(); device.queue.submit([one]); device.queue.submit([one])",
        "submitted",
    ),
    "twice-in-one": ("one = record(); device.queue.submit([one, one])", "submitted"),
    "another-device": ("one = record(); other = make(); other.queue.submit([one])", "foreign"),
    "dead-device": ("device.destroy(); device.queue.submit([])", "device"),
    "destroyed-before-submit": ("one = record(); source.destroy(); device.queue.submit([one])", ""),
    "attachment-destroyed": ("t = texture(); one = draw_to(t); t.destroy(); device.queue.submit([one])", ""),
    "mapped": ("one = record(); target.map_async('READ').sync_wait(); device.queue.submit([one])", "mapped"),
    "map-pending": (
        "one = record(); promise = target.map_async('READ'); device.queue.submit([one])",
        "mapped",
    ),
    "vertex-buffer-destroyed": (
        "v = vertices(); one = draw_with(v); v.destroy(); device.queue.submit([one])",
        "",
    ),
    "resolve-target-destroyed": (
        "t = texture(); one = resolve_to(t); t.destroy(); device.queue.submit([one])",
        "",
    ),
    "buffer-of-a-bundle-destroyed": (
        "v = vertices(); one = draw_bundle(v); v.destroy(); device.queue.submit([one])",
        "",
    ),
    "dead-device-with-commands": ("one = record(); device.destroy(); device.queue.submit([one])", "device"),
    "read-texture-destroyed": (
        "t = texture(); t.destroy(); device.queue.read_texture("
        "dict(texture=t), dict(bytes_per_row=64, rows_per_image=16), (16, 16, 1))",
        "destroyed",
    ),
    "read-mapped-destroyed": (
        "target.map_async('READ').sync_wait(); target.destroy(); target.read_mapped()",
        "destroyed",
    ),
    "read-destroyed": ("source.destroy(); device.queue.read_buffer(source)", "destroyed"),
}
QUIET = "Could not find any Vulkan"


@pytest.mark.parametrize("name", MISTAKES)
def test_what_aborts_the_process_raises_at_the_line(name: str) -> None:
    code, reason = MISTAKES[name]
    raw = run_python(SETUP + code, env={"GUARDED": "0"})
    assert raw.rc != 0, raw.stdout + raw.stderr
    assert raw.rc < 0 or "panic" in raw.stderr, raw.stderr
    done = run_python(
        SETUP
        + f"""
try:
    {code}
except Exception as error:
    assert isinstance(error, wgpu.GPUValidationError)
    print("refused", error.reason)
else:
    print("done")
import gc; gc.collect()
""",
        env={"GUARDED": "1"},
    ).check()
    assert done.split() == (["refused", reason] if reason else ["done"])


def test_an_array_over_mapped_memory_is_safe_after_destroy_and_drop() -> None:
    code = """
import numpy as np
large = device.create_buffer(size=1 << 26, usage=U.MAP_READ | U.COPY_DST)
large.map_async("READ").sync_wait()
array = np.frombuffer(large.read_mapped(copy=False), np.uint8)
large.destroy()
del large
gc.collect()
device.queue.submit([])
device._poll()
print(int(array.sum()))
"""
    raw = run_python(SETUP + code, env={"GUARDED": "0"})
    assert raw.rc < 0, raw.stdout + raw.stderr
    assert run_python(SETUP + code, env={"GUARDED": "1"}).check().strip() == "0"


@pytest.fixture
def device() -> Any:
    from lifecycle.integrations.gpu.wgpu import guard
    from tests.gpu.adapters import device as new_device

    return guard(new_device())


def buffers(device: Any) -> tuple[Any, Any]:
    import wgpu

    usage = wgpu.BufferUsage
    return (
        device.create_buffer(size=64, usage=usage.COPY_SRC | usage.COPY_DST),
        device.create_buffer(size=64, usage=usage.MAP_READ | usage.COPY_DST),
    )


def record(device: Any, source: Any, target: Any) -> Any:
    encoder = device.create_command_encoder()
    encoder.copy_buffer_to_buffer(source, 0, target, 0, 64)
    return encoder.finish()


def refused(reason: str) -> Any:
    from lifecycle.integrations.gpu.wgpu import GPUMisuseError

    class Refused:
        def __enter__(self) -> None:
            self.raises = pytest.raises(GPUMisuseError)
            self.info = self.raises.__enter__()

        def __exit__(self, *error: Any) -> bool:
            passed = bool(self.raises.__exit__(*error))
            assert self.info.value.reason == reason
            return passed

    return Refused()


def test_the_guard_changes_no_result_and_no_type(device: Any) -> None:
    import wgpu

    from lifecycle.integrations.gpu.wgpu import guard, guarded
    from tests.gpu.adapters import device as new_device

    assert guard(device) is device
    assert guarded(device)
    plain = new_device()
    assert not guarded(plain)
    for made, kind in (
        (device, wgpu.GPUDevice),
        (device.queue, wgpu.GPUQueue),
        (buffers(device)[0], wgpu.GPUBuffer),
        (device.create_command_encoder(), wgpu.GPUCommandEncoder),
    ):
        assert isinstance(made, kind)
        assert type(made).__name__ == kind.__name__
    assert not guarded(plain.create_buffer(size=4, usage=wgpu.BufferUsage.COPY_DST))
    results = []
    for each in (device, plain):
        source, target = buffers(each)
        each.queue.write_buffer(source, 0, bytes(range(64)))
        each.queue.submit([record(each, source, target)])
        results.append(
            bytes(each.queue.read_buffer(target)) if False else bytes(each.queue.read_buffer(source))
        )
    assert results[0] == results[1] == bytes(range(64))


def test_compute_gives_what_it_gave(device: Any) -> None:
    import wgpu

    usage = wgpu.BufferUsage
    shader = device.create_shader_module(
        code="""@group(0) @binding(0) var<storage, read_write> data: array<u32>;
        @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) at: vec3<u32>) { data[at.x] = at.x * 3u; }"""
    )
    storage = device.create_buffer(size=64, usage=usage.STORAGE | usage.COPY_SRC)
    pipeline = device.create_compute_pipeline(
        layout="auto", compute={"module": shader, "entry_point": "main"}
    )
    group = device.create_bind_group(
        layout=pipeline.get_bind_group_layout(0),
        entries=[{"binding": 0, "resource": {"buffer": storage, "offset": 0, "size": 64}}],
    )
    encoder = device.create_command_encoder()
    part = encoder.begin_compute_pass()
    part.set_pipeline(pipeline)
    part.set_bind_group(0, group)
    part.dispatch_workgroups(16)
    part.end()
    commands = encoder.finish()
    storage_share = storage
    device.queue.submit([commands])
    assert device.queue.read_buffer(storage).cast("I").tolist() == [3 * at for at in range(16)]
    # The bind group brings its buffer: destroyed before it is recorded it is refused at the line, and
    # destroyed after it is deferred.
    encoder = device.create_command_encoder()
    part = encoder.begin_compute_pass()
    part.set_pipeline(pipeline)
    part.set_bind_group(0, group)
    storage_share.destroy()
    with refused("destroyed"):
        part.set_bind_group(0, group)
    part.dispatch_workgroups(16)
    part.end()
    device.queue.submit([encoder.finish()])


@pytest.mark.parametrize("width", [7, 64], ids=["padded", "whole"])
def test_textures_are_read_as_unguarded(device: Any, width: int) -> None:
    import numpy as np
    import wgpu

    usage = wgpu.TextureUsage
    picture = np.arange(width * 5 * 4).astype(np.uint8).reshape(5, width, 4)
    size = (width, 5, 1)
    texture = device.create_texture(size=size, format="rgba8unorm", usage=usage.COPY_SRC | usage.COPY_DST)
    layout = {"bytes_per_row": width * 4, "rows_per_image": 5}
    device.queue.write_texture({"texture": texture}, picture, layout, size)
    for _ in range(2):
        got = device.queue.read_texture({"texture": texture}, layout, size)
        assert (np.frombuffer(got, np.uint8).reshape(picture.shape) == picture).all()
    assert bytes(device.queue.read_buffer(buffers(device)[0])) == bytes(64)


def test_each_refusal_leaves_everything_as_it_was(device: Any) -> None:
    from lifecycle.integrations.gpu.wgpu import guard
    from tests.gpu.adapters import device as new_device

    source, target = buffers(device)
    commands = record(device, source, target)
    promise = target.map_async("READ")
    with refused("mapped"):
        device.queue.submit([commands])
    promise.sync_wait()
    with refused("mapped"):
        device.queue.submit([commands])
    with refused("mapped"):
        device.queue.write_buffer(target, 0, b"1234")  # raw: silent
    target.unmap()
    foreign = guard(new_device())
    with refused("foreign"):
        foreign.queue.submit([commands])
    encoder = foreign.create_command_encoder()
    with refused("foreign"):
        encoder.copy_buffer_to_buffer(source, 0, target, 0, 64)
    with refused("foreign"):
        device.queue.submit([object()])
    device.queue.submit([commands])
    with refused("submitted"):
        device.queue.submit([commands])
    encoder = device.create_command_encoder()
    encoder.finish()
    with refused("finished"):
        encoder.clear_buffer(source)
    with refused("finished"):
        encoder.finish()
    device.destroy()
    calls: list[Callable[[], Any]] = [
        lambda: device.queue.submit([]),
        lambda: device.create_command_encoder(),
        lambda: device.create_sampler(),
        lambda: device.queue.write_buffer(source, 0, b"1234"),
        lambda: target.map_async("READ"),
        lambda: device.create_buffer(size=4, usage=8),
    ]
    for call in calls:
        with refused("device"):
            call()


def test_what_was_recorded_before_the_guard_is_refused_and_what_was_made_is_taken_in() -> None:
    from lifecycle.integrations.gpu.wgpu import guard, guarded
    from tests.gpu.adapters import device as new_device

    device = new_device()
    source, target = buffers(device)
    early = record(device, source, target)
    guard(device)
    with refused("foreign"):
        device.queue.submit([early])
    device.queue.submit([record(device, source, target)])
    assert guarded(source)
    source.destroy()
    with refused("destroyed"):
        record(device, source, target)


def test_a_map_that_was_pending_when_the_device_was_destroyed_is_answered(device: Any) -> None:
    _, target = buffers(device)
    promise = target.map_async("READ")
    device.destroy()
    done: list[Any] = []

    def wait() -> None:
        try:
            done.append(promise.sync_wait())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(30)
    assert len(done) == 1


def test_a_submission_holds_what_the_device_uses(device: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.wgpu import timeline

    line = timeline(device)
    assert timeline(device) is line
    source, target = buffers(device)
    given_back: list[int] = []
    frame = manager.register(1, "frame", release=given_back.append, release_on=ANY_THREAD)
    with line.submission() as work:
        work.use(frame)
        device.queue.submit([record(device, source, target)])
    frame.close()
    assert line.wait(30)
    eventually(lambda: given_back == [1])  # here, or by the timeline's own thread
    for number in range(20):
        again = manager.register(number, "frame", release=given_back.append, release_on=ANY_THREAD)
        with line.submission() as work:
            work.use(again)
            device.queue.submit([record(device, source, target)])
        again.close()
    eventually(lambda: len(given_back) == 21)  # nobody polls: the timeline's own thread does
    assert line.signalled == 21


def test_a_timeline_needs_a_guarded_device() -> None:
    from lifecycle.integrations.gpu.wgpu import guard, timeline
    from tests.gpu.adapters import device as new_device

    with pytest.raises(LifecycleError, match="is not guarded"):
        timeline(new_device())
    with pytest.raises(LifecycleError, match="takes a GPUDevice"):
        guard(object())


def test_the_wrappers_of_the_report_are_owned_by_share(device: Any, manager: SafetyManager) -> None:
    import wgpu

    from lifecycle.integrations.gpu.wgpu import own

    shader = device.create_shader_module(code="@compute @workgroup_size(1) fn main() {}")
    layout = device.create_bind_group_layout(entries=[])
    pipeline_layout = device.create_pipeline_layout(bind_group_layouts=[layout])
    texture = device.create_texture(size=(4, 4, 1), format="rgba8unorm", usage=wgpu.TextureUsage.COPY_DST)
    encoder = device.create_command_encoder()
    made = [
        shader,
        buffers(device)[0],
        layout,
        pipeline_layout,
        device.create_compute_pipeline(
            layout=pipeline_layout, compute={"module": shader, "entry_point": "main"}
        ),
        device.create_bind_group(layout=layout, entries=[]),
        texture.create_view(),
        texture,
        encoder,
        encoder.begin_compute_pass(),
    ]
    handles = [own(each, manager=manager) for each in made]
    assert [handle.type_name for handle in handles] == [
        f"wgpu.{name}"
        for name in (
            "ShaderModule",
            "Buffer",
            "BindGroupLayout",
            "PipelineLayout",
            "ComputePipeline",
            "BindGroup",
            "TextureView",
            "Texture",
            "CommandEncoder",
            "ComputePassEncoder",
        )
    ]
    with pytest.raises(DuplicateError):
        own(texture, manager=manager)
    borrowed = handles[7].share()
    assert handles[7].close() is False
    assert borrowed.close() is True  # the last share destroys
    with refused("destroyed"):
        texture.create_view()
    # An encoder is taken: whoever has it finishes it, once.
    with handles[9].exclusive() as part:
        part.end()
    handles[9].close()
    taken = handles[8].detach()
    with pytest.raises(LifecycleError):
        handles[8].detach()
    device.queue.submit([taken.finish()])
    with pytest.raises(LifecycleError, match="takes an object of wgpu, not 3"):
        own(3, manager=manager)
    for handle in handles:
        handle.close()


def test_mapped_memory_cannot_outlive_its_block(device: Any) -> None:
    import numpy as np
    import wgpu

    from lifecycle.integrations.gpu.wgpu import mapped

    usage = wgpu.BufferUsage
    upload = device.create_buffer(size=64, usage=usage.MAP_WRITE | usage.COPY_SRC)
    _, target = buffers(device)
    with mapped(upload, "write") as view:
        view[:4] = b"abcd"
    device.queue.submit([record(device, upload, target)])
    with mapped(target, "read") as view:
        assert bytes(view[:4]) == b"abcd"
        assert view.readonly
    with pytest.raises(HeldError, match="1 view"):
        with mapped(target, "read") as view:
            array = np.frombuffer(view, np.uint8).copy()
            kept = view[:8]
    assert bytes(kept[:4]) == bytes(array[:4]) == b"abcd"
    kept.release()
    del kept, view
    gc.collect()
    target.unmap()
    with pytest.raises(LifecycleError, match="'read' or 'write', not 'r'"):
        with mapped(target, "r"):
            pass


BAD_RANGES: dict[str, list[Any]] = {
    "mode": [None, 3, [], "r"],
    "offset": [-8, 4, 64, 1 << 64, 8.0, "8", None, True, []],
    "size": [-4, 0, 6, 68, 1 << 64, 4.0, "4", True, []],
}


@pytest.mark.parametrize(
    "bad",
    [{what: value} for what, values in BAD_RANGES.items() for value in values] + [{"offset": 56, "size": 12}],
    ids=str,
)
def test_a_range_that_is_not_in_the_buffer_is_refused_before_it_is_mapped(device: Any, bad: Any) -> None:
    from lifecycle.integrations.gpu.errors import TransferError
    from lifecycle.integrations.gpu.wgpu import mapped

    _, target = buffers(device)
    with pytest.raises(TransferError):
        with mapped(target, **{"mode": "read", **bad}):
            pass
    assert target.map_state == "unmapped"
    with mapped(target, "read", 56, 8) as view:
        assert len(view) == 8


def test_a_buffer_that_cannot_be_mapped_so_stays_as_it_was(device: Any) -> None:
    """What wgpu itself refuses is pending for ever, and can never be mapped again."""
    from lifecycle.integrations.gpu.errors import TransferError
    from lifecycle.integrations.gpu.wgpu import GPUMisuseError, mapped

    source, target = buffers(device)
    for buffer, mode, usage in ((target, "write", "MAP_WRITE"), (source, "read", "MAP_READ")):
        with pytest.raises(TransferError, match=f"usage=BufferUsage.{usage}"):
            with mapped(buffer, mode):
                pass
        assert buffer.map_state == "unmapped"
    with mapped(target, "read"):
        with pytest.raises(GPUMisuseError, match="is mapped already"):
            with mapped(target, "read"):
                pass
    assert target.map_state == "unmapped"
    device.destroy()
    with pytest.raises(GPUMisuseError, match=r"^create_buffer\(\): the device was destroyed"):
        device.create_buffer(size=4, usage=8)


def test_one_thread_maps_while_another_submits(device: Any) -> None:
    from lifecycle.integrations.gpu.wgpu import GPUMisuseError

    source, target = buffers(device)
    began = time.monotonic()
    refusals: list[str] = []
    errors: list[BaseException] = []

    def goes_on() -> bool:
        return time.monotonic() < began + (2.0 if submitted else 30.0)

    def map_it() -> None:
        try:
            while goes_on():
                target.map_async("READ_NOSYNC").sync_wait()
                target.unmap()
        except BaseException as error:
            errors.append(error)

    submitted = 0
    thread = threading.Thread(target=map_it)
    thread.start()
    while goes_on():
        try:
            device.queue.submit([record(device, source, target)])
            submitted += 1
        except GPUMisuseError as error:
            refusals.append(error.reason)
    thread.join()
    assert errors == []
    assert set(refusals) <= {"mapped"}
    assert submitted > 0


def gpu_code(code: Any) -> bool:
    return "integrations/gpu" in code.co_filename.replace("\\", "/")


def round_of(device: Any) -> Callable[[], None]:
    def run() -> None:
        source, target = buffers(device)
        commands = record(device, source, target)
        source.destroy()
        device.queue.submit([commands])
        target.destroy()

    return run


@SLOW
def test_an_interrupt_at_each_point(device: Any) -> None:
    count = 0
    for struck in each_interrupt(round_of(device), of=gpu_code):
        del struck
        count += 1
        gc.collect()
    assert count > 20
    round_of(device)()


@SLOW
def test_the_collector_at_each_line(device: Any) -> None:
    with every_line(gc.collect, of=gpu_code) as struck:
        round_of(device)()
    assert struck.strikes > 20
