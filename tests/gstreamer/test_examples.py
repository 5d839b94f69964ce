"""The examples that users start from, run as they are, in one process."""

from __future__ import annotations

from functools import cache

import pytest

from tests.support import Finished, run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")


@cache
def everything() -> Finished:
    return run_python(
        """
        import gc, sys, tempfile, traceback
        from pathlib import Path
        from examples import analyser, camera, encode_file, recorder, watchman, workers

        folder = Path(tempfile.mkdtemp())

        def analysed():
            assert analyser.run(20) > 5

        def recorded():
            for path in recorder.run(folder, 2, 0.6):
                assert b"\\x1c\\x53\\xbb\\x6b" in path.read_bytes()[-4096:], "no index: the file is not complete"

        def worked():
            assert len(workers.run(1.0)) == 3

        def watched():
            def scene(number, pipeline):
                if number in (10, 25, 40, 55):
                    pipeline["camera"].set_property("pattern", "ball" if number in (10, 40) else "black")
            files = watchman.run(folder, pictures=72, asked_for=lambda n: 20 <= n < 50, scene=scene, quiet=8)
            assert [len(files[name]) for name in ("movement", "asked-for")] == [2, 1], files
            for path in [*files["movement"], *files["asked-for"]]:
                assert b"\\x1c\\x53\\xbb\\x6b" in path.read_bytes()[-4096:], "no index: the file is not complete"

        def encoded():
            from lifecycle.integrations.gstreamer import Capture, PipelineGuard
            from lifecycle import SafetyManager
            path = encode_file.run(folder / "pictures.webm", 15)
            with SafetyManager() as manager:  # and it can be read again
                text = f"filesrc location={path} ! matroskademux ! vp8dec ! appsink name=sink sync=false"
                with PipelineGuard(manager, text) as pipeline, Capture(manager, pipeline["sink"]) as capture:
                    pipeline.play(0)
                    assert sum(1 for _ in capture.frames(timeout=20)) == 15

        def fell_back():
            sources = {"nothing": "nosuchsource", "broken": "filesrc location=/nowhere", **camera.SOURCES}
            camera.FIRST_FRAME = 5.0
            assert camera.run(5, {name: sources[name] for name in ("nothing", "broken", "test picture")}) == "test picture"

        for name, work in list(globals().items()):
            if name in ("analysed", "recorded", "watched", "worked", "encoded", "fell_back"):
                try:
                    work()
                    print(f"{name}: fine")
                except BaseException:
                    print(f"{name}: {traceback.format_exc()}")
                sys.stdout.flush()
        """,
        timeout=100,
        env={"G_DEBUG": "fatal-criticals"},
    )


@pytest.mark.parametrize("name", ["analysed", "recorded", "watched", "worked", "encoded", "fell_back"])
def test_an_example(name: str) -> None:
    done = everything()
    assert f"{name}: fine" in done.check(), done.stdout
    assert "leak" not in done.stderr, done.stderr
