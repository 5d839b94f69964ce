"""Writes what of the documentation is drawn from the code: the tables of events and metrics, the pages of the
reference, and the programs that pages show (`tools.programs`). ``python -m tools.pages``; with ``--check`` it
writes nothing, and fails where a page is stale.

The pages of the reference are drawn from the source alone, so no framework of an integration need be
installed; Sphinx fills them from the docstrings.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from pathlib import Path

from lifecycle.events import CLASSES, own_fields
from tools.programs import pages_with_programs, with_programs

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("debug", "info", "warning", "error")

REFERENCE: dict[str, str] = {
    "lifecycle": "What most programs use. Errors stand in `lifecycle.errors`.",
    "lifecycle.errors": "Every error. What to do about each: :doc:`/errors`.",
    "lifecycle.events": "What observers and the log are told. The table of all: :doc:`/events`.",
    "lifecycle.stats": "Figures, as frozen snapshots.",
    "lifecycle.fences": "How a device says that it has done. More: :doc:`/fences`.",
    "lifecycle.pools": "What pools lend, and who has it. More: :doc:`/pools`.",
    "lifecycle.distribution": "One source, many consumers. More: :doc:`/distribution`.",
    "lifecycle.memory": "Native bytes, counted and limited. More: :doc:`/managers`.",
    "lifecycle.objects": "Objects by their ids. More: :doc:`/managers`.",
    "lifecycle.proxies": "Existing objects, each call a lease. More: :doc:`/proxies`.",
    "lifecycle.recorder": "What a process did, after its crash. More: :doc:`/postmortem`.",
    "lifecycle.inspection": "Questions to a running process. More: :doc:`/postmortem`.",
    "lifecycle.watch": "Classes of other libraries, in any program. More: :doc:`/run`.",
    "lifecycle.lowlevel": "The layer on which integrations are built. More: :doc:`/integrations`.",
    "lifecycle.testing": "For tests: leaks, interrupts, orders, faults. More: :doc:`/testing`.",
    "lifecycle.integrations.event_loops.asyncio": "asyncio and uvloop. More: :doc:`/event-loops`.",
    "lifecycle.integrations.event_loops.glib": "GLib's main loop. More: :doc:`/event-loops`.",
    "lifecycle.integrations.event_loops.qt": "Qt's event loop. More: :doc:`/event-loops`.",
    "lifecycle.integrations.gstreamer": "GStreamer. More: :doc:`/gstreamer`.",
    "lifecycle.integrations.gstreamer.webrtc": "WebRTC peers. More: :doc:`/gstreamer/webrtc`.",
    "lifecycle.integrations.gpu.opengl": "OpenGL. More: :doc:`/gpu`.",
    "lifecycle.integrations.gpu.moderngl": "moderngl. More: :doc:`/gpu`.",
    "lifecycle.integrations.gpu.pyglet": "pyglet. More: :doc:`/gpu`.",
    "lifecycle.integrations.gpu.qt": "Qt. More: :doc:`/gpu`.",
    "lifecycle.integrations.gpu.vispy": "vispy. More: :doc:`/gpu`.",
    "lifecycle.integrations.gpu.wgpu": "wgpu. More: :doc:`/gpu`.",
    "lifecycle.integrations.cuda": "CUDA. More: :doc:`/cuda`.",
    "lifecycle.integrations.dlpack": "DLPack and the array interfaces. More: :doc:`/dlpack`.",
    "lifecycle.integrations.iceoryx2": "Frames between processes. More: :doc:`/howto/processes`.",
    "lifecycle.integrations.zenoh": "Frames between machines. More: :doc:`/howto/processes`.",
    "lifecycle.integrations.prometheus": "Metrics, by pull. More: :doc:`/statistics`.",
    "lifecycle.integrations.opentelemetry": "The same as instruments. More: :doc:`/howto/serve-metrics`.",
}
"""The public modules, each a page, with what its page says first."""

WITH_THEORY = frozenset({"lifecycle.fences", "lifecycle.lowlevel", "lifecycle.testing"})
"""The modules whose docstring is written for users: it stands at the top of the page."""

GROUPS: dict[str, tuple[str, ...]] = {
    "The manager": ("SafetyManager", "SafetyConfig", "StopToken", "SafeFinalizer", "ShutdownReport"),
    "Handles": ("Handle", "WeakHandle", "Lease", "ExclusiveLease", "Holder"),
    "Places": ("BACKGROUND", "ANY_THREAD", "DROPPED", "ReleaseQueue", "never_wait"),
    "Devices": ("Fence", "EventFence", "FutureFence", "Timeline", "Submission"),
    "Guards": ("CleanupGuard", "SharedCleanupGuard", "CleanupStack"),
    "Pools and distribution": ("BufferPool", "ObjectPool", "FrameDistributor", "FrameReceiver"),
    "Objects by id, memory": ("ObjectLifecycleManager", "MemoryManager", "MemoryConfig"),
    "What is known": ("ObjectInfo", "SafetyStats", "TypeStats", "Health", "Event", "Profiler"),
    "Words": ("ObjectState", "Cause", "__version__"),
}
"""The headings of the page of `lifecycle`. A name that stands in none of them comes last."""


def events_table() -> str:
    """The table of events, from the classes of `lifecycle.events`."""
    rows = ["| event | class | level | logged | fields | says |", "|---|---|---|---|---|---|"]
    for kind, cls in sorted(CLASSES.items(), key=lambda one: ORDER.index(one[1].level)):
        logged = cls.logged if cls.logged == "always" else f"`{cls.logged}`"
        fields = ", ".join(f"`{name}`" for name in own_fields(cls))
        says = " ".join(inspect.cleandoc(cls.__doc__ or "").split()).rstrip(".")
        says = says.replace("``", "`")
        rows.append(f"| `lifecycle.{kind}` | `{cls.__name__}` | {cls.level} | {logged} | {fields} | {says} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """The table of metrics, from the families that a scrape gives."""
    from lifecycle.integrations.prometheus import LifecycleCollector

    rows = ["| metric | type | labels | says |", "|---|---|---|---|"]
    for family in LifecycleCollector().describe():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        rows.append(
            f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation.rstrip('.')} |"
        )
    return "\n".join(rows)


# -- the reference -------------------------------------------------------------------------------------------


def source_of(module: str) -> Path:
    """The file of a module of this project."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def tree_of(module: str) -> ast.Module:
    """The source of a module, parsed."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def of_module(module: str) -> list[str]:
    """The names in its `__all__`, in their order."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise LookupError(f"{module} has no __all__")


def definition(module: str, name: str) -> tuple[str, ast.stmt]:
    """The module that defines a name, and its statement there: imports are followed."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return module, node
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(node, ast.stmt)
            return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lifecycle"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module or "", alias.name)
    raise LookupError(f"{name} is not defined in {module}")


def is_exception(module: str, node: ast.ClassDef) -> bool:
    """Return True if one of its bases is an exception, by its name or in its own bases."""
    for base in node.bases:
        name = ast.unparse(base).rpartition(".")[2]
        if name.endswith(("Error", "Exception")):
            return True
        try:
            home, found = definition(module, name)
        except LookupError:
            continue
        if isinstance(found, ast.ClassDef) and is_exception(home, found):
            return True
    return False


def directive(module: str, name: str) -> str:
    """How Sphinx is to show a name."""
    home, node = definition(module, name)
    if isinstance(node, ast.ClassDef):
        return "autoexception" if is_exception(home, node) else "autoclass"
    return "autofunction" if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else "autodata"


def heading(text: str, line: str) -> str:
    """A heading, underlined."""
    return f"{text}\n{line * len(text)}\n"


@functools.cache
def places() -> dict[tuple[str, str], str]:
    """Where each name of the integrations is shown first, by the module that defines it, and its name."""
    found: dict[tuple[str, str], str] = {}
    for module in REFERENCE:
        if module.startswith("lifecycle.integrations."):
            for name in of_module(module):
                found.setdefault((definition(module, name)[0], name), module)
    return found


def first_shown(module: str, name: str) -> str:
    """The module on whose page a name is indexed."""
    return places().get((definition(module, name)[0], name), module)


def module_page(module: str) -> str:
    """The page of a public module."""
    names = of_module(module)
    parts = [heading(module, "="), f"{REFERENCE[module]}\n", f".. currentmodule:: {module}\n"]
    if module == "lifecycle":
        elsewhere = set(of_module("lifecycle.errors"))
        shown = [name for name in names if name not in elsewhere]
        groups = {title: [name for name in of if name in shown] for title, of in GROUPS.items()}
        rest = [name for name in shown if not any(name in of for of in groups.values())]
        for title, of in {**groups, **({"More": rest} if rest else {})}.items():
            parts.append(heading(title, "-"))
            parts += [f".. {directive(module, name)}:: lifecycle.{name}\n" for name in of]
        parts.append(heading("Errors", "-"))
        parts.append("These can be imported from here as well:\n")
        parts.append("\n".join(f"- `lifecycle.errors.{name}`" for name in names if name in elsewhere) + "\n")
    else:
        if module in WITH_THEORY:
            parts.append(f".. automodule:: {module}\n   :no-members:\n   :no-index:\n")
        for name in names:
            # What several integrations show is indexed once.
            again = "" if first_shown(module, name) == module else "   :no-index:\n"
            parts.append(f".. {directive(module, name)}:: {module}.{name}\n{again}")
    return "\n".join(parts)


@functools.cache
def reference_pages() -> dict[str, str]:
    """Every page of the reference, by its file's name."""
    pages = {f"{module}.rst": module_page(module) for module in REFERENCE}
    rows = "".join(
        f"   * - :doc:`{module} <{module}>`\n     - {says}\n" for module, says in REFERENCE.items()
    )
    hidden = "".join(f"   {module}\n" for module in REFERENCE)
    pages["index.rst"] = (
        f"{heading('Reference', '=')}\n"
        "Every public name, in the one module that it is imported from. Unless a docstring says otherwise,\n"
        "each call may be made on any thread and at any moment, times are in seconds, sizes in bytes, and\n"
        "what raises has changed nothing.\n\n"
        f".. list-table::\n   :header-rows: 1\n\n   * - module\n     - what it has\n{rows}\n"
        f".. toctree::\n   :hidden:\n\n{hidden}"
    )
    return pages


def put(page: str, first: str, table: str) -> None:
    """Put a table into its page, where the one of before stands."""
    path = ROOT / "docs" / page
    old = re.compile(rf"^\| {first} \|.*?(?=\n\n|\n?\Z)", re.DOTALL | re.MULTILINE)
    text, count = old.subn(lambda _: table, path.read_text(encoding="utf-8"), count=1)
    assert count == 1, page
    path.write_text(text, encoding="utf-8")


def check() -> list[str]:
    """The pages that are not as the code says."""
    pages = {ROOT / "docs" / "reference" / name: text for name, text in reference_pages().items()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    tables = {"events.md": events_table(), "statistics.md": metrics_table()}
    stale += [
        ROOT / "docs" / page
        for page, table in tables.items()
        if table not in (ROOT / "docs" / page).read_text("utf-8")
    ]
    stale += [path for path in pages_with_programs() if path.read_text("utf-8") != with_programs(path)]
    return [str(path.relative_to(ROOT)) for path in stale]


def main(arguments: list[str]) -> int:
    """Put the tables into their pages, and write the reference. With ``--check`` only say what is stale."""
    if "--check" in arguments:
        stale = check()
        for page in stale:
            print(f"{page} is not as the code says: python -m tools.pages", file=sys.stderr)
        return 1 if stale else 0
    put("events.md", "event", events_table())
    put("statistics.md", "metric", metrics_table())
    for shown in pages_with_programs():
        shown.write_text(with_programs(shown), encoding="utf-8")
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    pages = reference_pages()
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
