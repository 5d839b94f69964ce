"""What users call.

- `manager`: `SafetyManager`
- `access`: the panic boundary
- `ending`, `shutdown`: the end, by `close`, with the interpreter or in a forked child; its steps
- `factory`, `recipes`: making and registering in one step; registering many objects of one kind
- `policies`, `kinds`: the rules of a type; the types, by name or by class
- `machinery`: the places and threads, from the first object to the last
- `observed`: objects that are owned elsewhere
- `components`: what is made over a manager and has to be closed
- `callbacks`: functions that C calls, which can do it no harm
- `rare`: what few registrations ask for: releases that are no plain functions, retries
- `finalizers`: an action at the end of any Python object
- `signals`: managers that are closed when a signal ends the process
- `stopping`: how producers learn of the end
"""

from lifecycle._core.handle import Handle
from lifecycle._core.place import ANY_THREAD, BACKGROUND
from lifecycle.manager.manager import SafetyManager
from lifecycle.places.queues import ReleaseQueue

__all__ = ["ANY_THREAD", "BACKGROUND", "Handle", "ReleaseQueue", "SafetyManager"]
