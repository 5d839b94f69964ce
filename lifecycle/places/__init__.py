"""Places: where releases run, and how one is run.

- `workers`: the timed place, whose releases have a deadline
- `queues`: places that an owner drains, and that can be lost
- `bell`: how an event loop learns that its queue has work
- `place`: what every place is, and the one whose releases run anywhere
- `waiting`: waiting for an end, and not in circles
- `releases`: running one release, in steps that can be taken up again
- `timelines`: in which order the fences of one device are asked
"""
