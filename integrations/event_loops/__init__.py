"""Event loops: release queues that asyncio, Qt or GLib drain by themselves, and what their programs need
besides.

All stand on ``ReleaseQueue(post=)``, which needs no module of ours: `docs/event-loops.md` has the recipe for
other loops.

- `asyncio`, `glib`, `qt`: one module for each, which alone imports its framework (`asyncio` serves uvloop
  too)
"""
