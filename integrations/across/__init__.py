"""What topics between processes have in common, whatever carries the frames
(`lifecycle.integrations.iceoryx2`, `lifecycle.integrations.zenoh`, which show the names).

- `bridges`: threads between a topic and a local distributor
- `receiving`: the receiver
- `standing`: its counts and policies
- `feeds`: what it asks of the library that carries the frames
- `frames`: frames that came
- `header`: what stands in front of each
- `errors`: the errors
"""
