"""What users call.

- `manager`: `SafetyManager`
- `access`: the panic boundary
- `ending`, `shutdown`: the end, by `close`, with the interpreter or in a forked child; its steps
- `factory`: making and registering in one step
- `policies`, `kinds`: the rules of a type; the types, by name or by class
- `machinery`: the places and threads, from the first object to the last
- `observed`: objects that are owned elsewhere
- `components`: what is made over a manager and has to be closed
- `finalizers`: an action at the end of any Python object
- `stopping`: how producers learn of the end
"""
