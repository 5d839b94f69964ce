"""One registered object.

- `doors`: finding the door of an object, also in the midst of a collection
- `fates`: what can be said of it: its state, its name in messages, what became of it
- `shares`: who may still use its door, and who shuts it as the last
- `registry`: the tables of a manager, the kinds of its objects, who owns which native
- `cell`: the object, its door, and the reference count that decides everything
"""
