"""Places: where releases run, and how one is run.

`releases` runs one release in steps that can be taken up again; `queues` has the places themselves, `workers` the timed one,
`bell` wakes an event loop for its queue, and `timelines` asks the fences of one timeline in their order.
"""
