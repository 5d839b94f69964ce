"""What users hold: handles, and what keeps the object alive behind them.

`handle` is the share of ownership; through it come `leases`, `views`, `exclusive` access and `ownership` (taking the object out).
`holders` says who keeps an object, with the help of `referrers`, which looks through the heap.
"""
