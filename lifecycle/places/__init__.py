"""Places: where releases run, and how one is run.

`place` says what every place is, and has the one whose releases run anywhere; `queues` those that an owner drains, `bell` wakes
an event loop for its queue, `workers` the timed one. `releases` runs one release in steps that can be taken up again, `waiting`
waits for an end, and `timelines` asks the fences of one timeline in their order.
"""
