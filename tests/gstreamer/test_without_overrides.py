"""Frames, feeders, captures and pools where gst-python's overrides are missing, as with PyGObject from PyPI."""

from __future__ import annotations

import pytest

from tests.support import run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy", "gst-overrides")

CHOSEN = (
    "lie_as_gstreamer_says and (NV12 or I420-) or memories_of_their_own or frames_times_channels and S16LE or sole_owner "
    "or lent_picture and odd or without_a_copy or come_back_by or are_named or ends_with_the_stream"
)


def test_the_same_tests_pass_without_gst_pythons_overrides() -> None:
    done = run_python(
        f"""
        import pathlib, shutil, sys, tempfile
        import gi.overrides
        folder = pathlib.Path(tempfile.mkdtemp())
        for path in gi.overrides.__path__:
            shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("Gst*", "_gi_gst*", "__pycache__"))
        gi.overrides.__path__ = [str(folder)]
        from gi.repository import Gst
        assert not hasattr(Gst, "MapError"), "the overrides are still there"
        import pytest
        names = ("planes", "audio", "writable", "feeder", "pool", "waiting")
        files = [f"tests/gstreamer/test_{{name}}.py" for name in names]
        status = pytest.main(["-q", "-p", "no:cacheprovider", "--show-capture=no", "-k", {CHOSEN!r}, *files])
        shutil.rmtree(folder)
        sys.exit(status)
        """,
        timeout=100,
    )
    assert " passed" in done.check()
