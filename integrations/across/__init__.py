"""What topics between processes have in common, whatever carries the frames
(`lifecycle.integrations.iceoryx2`, `lifecycle.integrations.zenoh`).

What both have in common is public in both, and nowhere else: the words of a topic are the same, so a program
imports all of them from its transport, and changes that by changing one line. The reference indexes it once.

- `bridges`: threads between a topic and a local distributor
- `receiving`: the receiver
- `position`: its counts and policies
- `feeds`: what it asks of the library that carries the frames
- `frames`: frames that came
- `header`: what stands in front of each
- `errors`: the errors
"""
