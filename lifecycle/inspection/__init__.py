"""Questions to a running process that its recorder's file does not answer: queues, holders, old objects.

A process that has `LIFECYCLE_INSPECT` in its environment, or calls `serve`, answers ``lifecycle inspect PID
QUESTION`` through a Unix socket, its owner's alone. Everything is read-only and bounded.

- `attach`: the same by code that runs in the process (Python 3.14)
- `server`: the socket and who may ask
- `client`: asking
- `questions`: what may be asked, and what each costs
- `protocol`: what both ends have in common
"""

from lifecycle.inspection.client import ask
from lifecycle.inspection.protocol import InspectionError
from lifecycle.inspection.server import Server, serve

__all__ = ["InspectionError", "Server", "ask", "serve"]
