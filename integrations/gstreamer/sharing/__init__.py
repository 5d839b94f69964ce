"""Sharing: one source for consumers that come and go.

- `tee`, `branch`: branches of a tee, in one pipeline
- `fuse`: what keeps the end of a branch from the tee
- `clients`, `client`: clients of an encoder, each with a pipeline of its own
"""
