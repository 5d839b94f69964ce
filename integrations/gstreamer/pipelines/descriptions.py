"""Descriptions as for ``gst-launch-1.0``, and what is wrong with one that cannot be used."""

from __future__ import annotations

import re
from typing import Any, Final

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
    if "\0" in description:
        raise DescriptionError(
            f"the {what} description {description!r} has a null character, at which GStreamer would end it; "
            "take that out",
            position=description.index("\0"),
        )
    context = Gst.ParseContext.new()
    problem = ""
    try:
        made = parser(description, context, Gst.ParseFlags.FATAL_ERRORS)
    except Exception as error:  # GLib.Error
        problem = getattr(error, "message", "") or str(error)
        made = None
    if made is None:
        # GStreamer counts an element among the missing whose property it could not set.
        missing = [
            name for name in context.get_missing_elements() or () if Gst.ElementFactory.find(name) is None
        ]
        remedy = (
            f"not installed: {', '.join(sorted(set(missing)))} (on Debian: apt-file search, or "
            "gstreamer1.0-plugins-good, -bad, -ugly)"
            if missing
            else "try it with gst-launch-1.0"
        )
        start, end = place_of(description, problem)
        raise DescriptionError(
            f"the {what} description {description!r} cannot be used: {problem}; {remedy}"
            f"{_shown(description, start, end)}",
            position=start,
        )
    return made


def place_of(description: str, problem: str) -> tuple[int | None, int]:
    """Where in the description the mistake is that GStreamer told of in `problem`, which says what is wrong
    and not where: from which character up to which; None where that cannot be told."""
    for said, patterns in _SAID:
        found = said.search(problem)
        if found is None:
            continue
        for pattern in patterns:
            wanted = pattern.format(
                *(re.escape(part.rstrip("0123456789") or part) for part in found.groups())
            )
            place = re.search(wanted, description)
            if place is not None:
                return place.span(place.lastindex or 0)
    return _bad_syntax(description) if "syntax" in problem else (None, 0)


_NAME: Final = r"(?<![\w-])({})(?![\w-])"
_SAID: Final = (
    (
        re.compile(r'no property "([^"]+)" in element "([^"]+)"'),
        (r"{1}\d*[^!]*?(?<![\w-])({0})\s*=", r"({0})\s*="),
    ),
    (
        re.compile(r'could not set property "([^"]+)" in element "([^"]+)"'),
        (r"{1}\d*[^!]*?(?<![\w-])({0}\s*=\s*\S*)", r"({0}\s*=\s*\S*)"),
    ),
    (re.compile(r'no element "([^"]+)"'), (_NAME,)),
    (re.compile(r'could not parse caps "([^"]+)"'), ("({})",)),
    (re.compile(r"could not link \S+ to (\w+?)\d*(?:,|$| )"), (_NAME,)),
    (re.compile(r"could not link (\w+?)\d* to"), (_NAME,)),
)
"""What GStreamer says, and where that is."""


def _bad_syntax(description: str) -> tuple[int | None, int]:
    """Where a description goes wrong that is none: a link of nothing, or what was not closed."""
    for wrong in (r"^\s*(!)", r"!\s*(!)", r"(!)\s*$", r"([(])[^()]*$"):
        place = re.search(wrong, description)
        if place is not None:
            return place.span(1)
    last = description.rstrip()
    return last.rfind(" ") + 1, len(last)


def _shown(description: str, start: int | None, end: int) -> str:
    """The line of the mistake, with a mark below it."""
    if start is None:
        return ""
    begin = description.rfind("\n", 0, start) + 1
    line = description[begin:].partition("\n")[0]
    mark = " " * (start - begin) + "^" * max(1, min(end, begin + len(line)) - start)
    return f"\n    {line}\n    {mark}"
