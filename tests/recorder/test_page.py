"""``lifecycle report``: one page that loads nothing, and draws what the file has, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from lifecycle.cli.main import main
from lifecycle.recorder.page import page_of
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import read
from tests.recorder.scenes import line_of, play
from tests.support import Refusal

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SCENE = """
manager = SafetyManager()
def make(name, release=nothing):
    return manager.register(Native(), "<b>buffer</b>", name=name, release=release, release_on=ANY_THREAD, size=1000)
for n in range(20):
    make(f"b{n}").close()
make("dropped </script><script>document.title = 'bad'</script>")
kept = make("kept")
hung = make("hung", lambda native: os.abort())
def work():
    with kept.lease():
        lifecycle.recorder.active().note("about to <i>crash</i>")
        hung.close()
thread = threading.Thread(target=work, name="worker")
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    play(made, SCENE)
    return made


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    (path,) = folder.glob("*.rec")
    return path


def data(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def test_what_the_page_has(file: Path, folder: Path) -> None:
    found = data(page_of(analyse(read(file))))
    assert found["crashed"]
    (kind,) = found["types"]
    assert (kind["type"], kind["registered"], kind["live"][-1]) == ("<b>buffer</b>", 23, 2)
    assert kind["bytes"][-1] == 2000
    assert kind["live"][0] in (0, 1)
    (site,) = found["sites"]
    line = line_of(folder, "manager.register(Native()")
    assert (site["site"], site["dropped"], site["live"], site["bytes"]) == (f"scene.py:{line}", 1, 2, 2000)
    assert site["line"].startswith('return manager.register(Native(), "<b>buffer</b>"')
    (hold,) = found["holds"]
    assert hold["object"].endswith('"kept"')
    assert hold["thread"].startswith("worker ")
    (release,) = found["releases"]
    assert (release["count"], release["failed"]) == (21, 0)
    assert 0 <= release["median"] <= release["max"]
    worker = next(row for row in found["threads"] if row["thread"].startswith("worker "))
    assert {bar["kind"] for bar in worker["bars"]} == {"lease", "running"}
    assert any("about to <i>crash</i>" in mark["what"] for mark in worker["marks"])
    assert all(-1 <= bar["from"] <= bar["to"] <= 0 for row in found["threads"] for bar in row["bars"])


def test_lines_of_the_program_are_left_out_where_that_is_asked(file: Path) -> None:
    (site,) = data(page_of(analyse(read(file)), sources=False))["sites"]
    assert site["line"] == ""


def test_only_lines_of_python_files_are_read(tmp_path: Path) -> None:
    from lifecycle.recorder.page import _line

    secret = tmp_path / "secret"
    secret.write_text("password\n")
    link = tmp_path / "link.py"
    link.symlink_to(secret)
    good = tmp_path / "good.py"
    good.write_text("first\n  second\x1b[2J = 1\n")
    assert _line(f"{secret}:1") == _line(f"{link}:1") == _line(f"{tmp_path}/nowhere.py:1") == ""
    assert _line("good.py:1") == _line(f"{good}:x") == _line("") == _line(f"{good}:99") == ""
    assert _line(f"{good}:2") == "second?[2J = 1"


def test_nothing_in_a_recording_becomes_html_and_nothing_is_loaded(file: Path) -> None:
    page = page_of(analyse(read(file)))
    assert page.count("</script>") == 2
    assert "<b>buffer" not in page
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=", page) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page) == []
    assert "innerHTML" not in page


def test_a_program_that_is_named_like_a_place_of_the_template_is_text(file: Path) -> None:
    report = analyse(read(file))
    named = attrs.evolve(report.recording, program="{{data}}</title><b>")
    page = page_of(attrs.evolve(report, recording=named))
    assert f"<title>{{{{data}}}}&lt;/title&gt;&lt;b&gt; {named.pid}</title>" in page
    assert data(page)["report"]["process"]["program"] == named.program


def test_the_command_writes_one_file_and_none_over_another(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Refusal
) -> None:
    out = tmp_path / "out.html"
    assert main(["report", str(file), "-o", str(out)]) == 1
    assert capsys.readouterr().out == f"{out}\n"
    assert out.stat().st_mode & 0o777 == 0o600
    assert "is there already: name another with -o, or add --force" in refusal(
        "report", str(file), "-o", str(out)
    )
    assert main(["report", str(file), "-o", str(out), "--force"]) == 1
    capsys.readouterr()
    assert main(["report", str(file), "-o", "-"]) == 1
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert "nowhere.rec cannot be read" in refusal("report", str(tmp_path / "nowhere.rec"))
    assert "No such file" in refusal("report", str(file), "-o", str(tmp_path / "no" / "such.html"))


@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_a_real_browser_draws_it(file: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """Every section is there, no text of the recording became an element, nothing is wider than a phone, and
    text and background are far enough apart in either colour scheme."""
    page = page_of(analyse(read(file)))
    probe = """
    <script>
    const style = getComputedStyle(document.body), wide = [];
    for (const one of document.querySelectorAll("main > *"))
      if (one.getBoundingClientRect().right > innerWidth + 1) wide.push(one.tagName);
    document.body.dataset.probe = JSON.stringify({
      drawn: document.body.dataset.drawn, title: document.title, wide, fg: style.color, bg: style.backgroundColor,
      sections: [...document.querySelectorAll("h2")].map(one => one.textContent),
      bold: document.querySelectorAll("main b, main i:not(.key i)").length,
      charts: document.querySelectorAll("figure svg").length, bars: document.querySelectorAll("rect").length,
    });
    </script></body>"""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", probe), encoding="utf-8")
    scheme = 0 if dark else 1
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"),
        *(f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},900", "--dump-dom"),
        path.as_uri(),
    ]
    if width < 500:
        # A window is no narrower than that: the page stands in a frame, and the frame's page says what it found.
        inside = path.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
        path.write_text(
            f'<iframe srcdoc="{inside}" width="{width}" height="800"></iframe><script>'
            "onload = () => document.body.dataset.probe = frames[0].document.body.dataset.probe;</script>",
            encoding="utf-8",
        )
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    match = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert match is not None, done.stderr[-2000:]
    found = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<"))
    assert found["drawn"] == "yes"
    assert found["title"] != "bad"
    assert found["wide"] == []
    assert found["bold"] == 0
    assert found["sections"] == [
        "Suspects",
        "The last 1.00 s, by thread",
        "Objects by type",
        "Never closed, or live at the end",
        "Leases at the end",
        "Release times",
        "As text",
    ]
    assert found["charts"] >= 2
    assert found["bars"] >= 2
    front, back = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("fg", "bg"))
    assert (front - back > 380) if dark else (back - front > 380)
