"""Descriptions as for ``gst-launch-1.0``, and what is wrong with one that cannot be used."""

from __future__ import annotations

from typing import Any

from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import DescriptionError
from lifecycle.integrations.gstreamer.pipelines.guard import children_of, pads_of

__all__ = ["parse", "parse_bin"]


def parse(description: str) -> Any:
    """The pipeline of a description as for ``gst-launch-1.0``. Raises `DescriptionError` saying what is wrong
    with it."""
    made = _parsed(description, Gst.parse_launch_full, "pipeline")
    if not isinstance(made, Gst.Pipeline):  # one element alone
        pipeline = Gst.Pipeline.new(None)
        pipeline.add(made)
        return pipeline
    return made


def parse_bin(description: str) -> Any:
    """The bin of a description, with ghost pads for the sink pads that are not linked in it. Raises like
    `parse`.

    Of its elements alone: GStreamer itself looks into bins that are elements too, and takes from a
    splitmuxsink the pad by which it links its muxer later."""
    made = _parsed(
        description, lambda text, *rest: Gst.parse_bin_from_description_full(text, False, *rest), "branch"
    )
    for element in children_of(made):
        for pad in pads_of(element, Gst.PadDirection.SINK):
            if not pad.is_linked():
                made.add_pad(Gst.GhostPad.new(None if made.get_static_pad("sink") else "sink", pad))
    return made


def _parsed(description: str, parser: Any, what: str) -> Any:
    if not isinstance(description, str) or not description.strip():
        raise DescriptionError(
            f"a {what} description is a text such as 'videotestsrc ! fakesink', not {description!r}"
        )
    context = Gst.ParseContext.new()
    problem = ""
    try:
        made = parser(description, context, Gst.ParseFlags.FATAL_ERRORS)
    except Exception as error:  # GLib.Error
        problem = getattr(error, "message", "") or str(error)
        made = None
    if made is None:
        missing = context.get_missing_elements() or ()
        remedy = (
            f"not installed: {', '.join(sorted(set(missing)))} (on Debian: apt-file search, or "
            "gstreamer1.0-plugins-good, -bad, -ugly)"
            if missing
            else "try it with gst-launch-1.0"
        )
        raise DescriptionError(f"the {what} description {description!r} cannot be used: {problem}; {remedy}")
    return made
