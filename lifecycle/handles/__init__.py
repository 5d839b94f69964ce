"""What users hold, and what keeps the object alive behind it.

- `handle`: one share of ownership
- `exclusive`: the right to use the object alone
- `ownership`: taking the object out of the manager
- `holders`, `referrers`: who keeps an object, as far as the heap can tell
- `leases`, `views`: the right to use it for a block; its memory
"""
