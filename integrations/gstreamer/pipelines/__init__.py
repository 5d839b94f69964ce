"""Pipelines: guards that end what has to be ended, and what is heard of a pipeline.

- `guard`: what all guards are, and what they ask of GObjects
- `pipeline`, `elements`, `pads`, `signals`, `bus`: the guards, each with what it guards
- `descriptions`: pipelines and branches written as for ``gst-launch-1.0``
- `journal`: what is heard of a pipeline
- `scopes`: in which branch something has happened
- `callbacks`: the boundary around functions that GStreamer calls
- `threads`: streaming threads, and calls that may hang
- `finishing`: what is to see the end of its stream before anything goes to NULL
- `figures`: what branches have passed and how they ended, for metrics
- `listening`, `drain`: the errors of a pipeline, for whoever waits; buses that nobody reads
"""
