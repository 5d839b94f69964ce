"""The manager: what users call, in `manager`, and what it delegates.

`registration` enters an object, `factory` one that is made on the way, `observed` one that is owned elsewhere; `access` is the
panic boundary, `policies` the rules of a type, `finalizers` watch any Python object; `stopping` tells producers of the end, and
`shutdown` is the end.
"""
