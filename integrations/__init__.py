"""Adapters for other libraries, imported as ``lifecycle.integrations.gstreamer`` and so on.

- `gstreamer`: samples, captures, feeders, pools, guards of pipelines
- `gpu`: OpenGL and wgpu: what a device uses is leased to it
- `opengl`, `moderngl`, `pyglet`, `qt`, `vispy`, `wgpu`: the adapters in `gpu`, under shorter names
- `cuda`: streams as timelines, memory of devices
- `dlpack`: memory handed to other libraries and taken from them, without a copy
- `event_loops`: release queues that asyncio, GLib and Qt drain
- `iceoryx2`: frames between processes of one machine, by shared memory
- `zenoh`: frames between machines
- `across`: what these two have in common
- `prometheus`: a collector for a scrape
- `opentelemetry`: the same figures as observable instruments

The folder lies at the top of the repository; `lifecycle/integrations` is a link to it, and the wheel has it
there. With a checkout on ``sys.path`` it would be found as ``integrations`` as well, a name that belongs to
applications: it steps aside then.
"""

if __name__ == "integrations":
    import os
    from pkgutil import extend_path

    _here = os.path.realpath(os.path.dirname(__file__))
    __path__ = [path for path in extend_path(__path__, __name__) if os.path.realpath(path) != _here]
    if not __path__:
        raise ImportError("these are imported as lifecycle.integrations", name=__name__)
