"""Captures: frames out of an appsink, on a thread of their own or in a loop.

- `capture`: the capture, by callback and by iteration
- `runs`: one run of it, from start to stop, and the appsink left behind
- `appsink`: how an appsink is pulled from, and why a pull gave nothing
- `queue`: the appsink's queue: the user's, bounded, and left flowing
- `iteration`: ``for`` and ``async for``
- `starving`: why nothing comes
"""
