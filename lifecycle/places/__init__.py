"""The places with an owner: where releases run besides the thread that closes.

- `queues`: places that an owner drains, and that can be lost
- `loops`, `workers`: how an event loop learns that its queue has work; threads whose releases have a deadline
"""
