"""What users call.

- `manager`: `SafetyManager`
- `access`: the panic boundary
- `factory`: making and registering in one step
- `policies`: the rules of a type
- `ending`, `shutdown`: the end, by `close`, with the interpreter or in a forked child; its steps
- `machinery`: the places and threads, from the first object to the last
- `targets`: what a handle or id given to a call stands for
- `kinds`: the types, by name or by class
- `observed`: objects that are owned elsewhere
- `registration`: entering an object
- `components`: what is made over a manager and has to be closed
- `finalizers`: an action at the end of any Python object
- `stopping`: how producers learn of the end
"""
