"""How Sphinx builds the documentation. ``make docs`` calls it by ``tools/docs.py``, which puts the papers of
the project beside the pages."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import _MockObject
from sphinx.ext.napoleon import Config, NumpyDocstring

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "lifecycle").is_dir():  # built from the copy that tools/docs.py makes
    ROOT = ROOT.parent
sys.path.insert(0, str(ROOT))

import lifecycle  # noqa: E402 - the path comes first

project = "native-lifecycle"
author = "the native-lifecycle contributors"
project_copyright = author
version = release = lifecycle.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
html_theme = "furo"
html_title = f"native-lifecycle {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
# What a page shows is the same on each day.
html_last_updated_fmt = None
templates_path = ["_templates"]

# A name in `single` quotes in a docstring is a link where it is public, and code otherwise.
default_role = "py:obj"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {
    "members": True,
    # But for what Python's own classes, and another public one, bring.
    "inherited-members": "str,Enum,tuple,Exception,BaseException,ExceptionGroup,Generic,Handle,Collector",
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Otherwise defaults are shown as in attrs' own source: attr_dict['x'].default
autodoc_preserve_defaults = False
maximum_signature_line_length = 80
# The frameworks of the integrations, where they are not installed.
autodoc_mock_imports = [
    name
    for name in (
        *("gi", "numpy", "OpenGL", "moderngl", "pyglet", "vispy", "wgpu", "PySide6", "uvloop"),
        *("prometheus_client", "opentelemetry", "iceoryx2", "zenoh"),
    )
    if importlib.util.find_spec(name) is None
]
# Flags of a mocked framework are put together, and made numbers, as modules are imported.
for operation in ("__or__", "__ror__", "__and__", "__lshift__"):
    setattr(_MockObject, operation, lambda self, other: self)
_MockObject.__int__ = _MockObject.__index__ = lambda self: 0

NUMPY = Config(napoleon_numpy_docstring=True, napoleon_use_rtype=False)
PARAMETER = re.compile(r"\*{0,2}\w+(, \*{0,2}\w+)*:?$")
# Made by the library alone: how they are called is nobody's business.
MADE_BY_THE_LIBRARY = {
    "CaptureStats",
    "ExclusiveLease",
    "FrameReceiver",
    "Handle",
    "Health",
    "Holder",
    "Lease",
    "Loan",
    "ObjectInfo",
    "SafeFinalizer",
    "StopToken",
    "Submission",
    "WeakHandle",
}


def split_prose(lines: list[str]) -> tuple[list[str], list[str]]:
    """A docstring up to the end of its parameters, and the prose behind them, which napoleon would take for
    more of them."""
    try:
        start = next(
            number
            for number, line in enumerate(lines[:-1])
            if line == "Parameters" and re.fullmatch("-+", lines[number + 1])
        )
    except StopIteration:
        return lines, []
    for number in range(start + 2, len(lines)):
        line = lines[number]
        heading = number + 1 < len(lines) and re.fullmatch("-{3,}", lines[number + 1])
        if line and not line.startswith(" ") and not PARAMETER.match(line):
            return (lines, []) if heading else (lines[:number], lines[number:])
    return lines, []


def sections(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read the sections of classes and functions. Of an attribute napoleon would take «text: more» for a
    type."""
    if what not in {"class", "exception", "function", "method"}:
        return
    head, prose = split_prose(lines)
    lines[:] = [
        *str(NumpyDocstring("\n".join(head), NUMPY, app, what, name, obj, options)).splitlines(),
        "",
        *prose,
    ]
    documented = {found for line in lines for found in re.findall(r"^:param \*{0,2}(\w+):", line.strip())}
    for wrong in sorted(documented - parameters(obj)):
        WARNINGS.append(f"{name}: {wrong!r} is documented as a parameter, and is none")


WARNINGS: list[str] = []


def parameters(obj: Any) -> set[str]:
    """The names of the parameters of `obj`, and of the classes that it stands for."""
    found: set[str] = set()
    for one in (obj, *(getattr(obj, special, None) for special in ("__init__", "__new__", "__call__"))):
        try:
            found |= {name.lstrip("_") for name in inspect.signature(one).parameters}
        except (TypeError, ValueError):
            continue
    return found


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Leave out what nobody calls, and the places of objects."""
    if what == "class" and name.rpartition(".")[2] in MADE_BY_THE_LIBRARY:
        return "", None
    if arguments and " object at 0x" in arguments:
        return re.sub(r"<([\w.]+) object at 0x[0-9a-f]+>", r"...", arguments), returns
    return None


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> nodes.reference | None:
    """A link for a bare name, or one of a private module: to the public object of that name."""
    if node.get("refdomain") != "py" or hasattr(builtins, node.get("reftarget", "")):
        return None
    target = node.get("reftarget", "").rpartition(".")[2].rstrip("()")
    objects = env.domaindata["py"]["objects"]
    found = sorted(
        (name.count("."), name) for name in objects if name == target or name.endswith(f".{target}")
    )
    context = node.get("py:class") or ""
    near = [one for one in found if context and one[1].endswith(f"{context.rpartition('.')[2]}.{target}")]
    modules = [one for one in found if objects[one[1]].objtype not in ("method", "attribute", "property")]
    for candidates in (near, modules, found if len(found) == 1 else []):
        if candidates:
            entry = objects[candidates[0][1]]
            refuri = app.builder.get_relative_uri(env.docname, entry.docname) + "#" + entry.node_id
            return nodes.reference("", "", contnode, internal=True, refuri=refuri, reftitle=candidates[0][1])
    return None


# Names of frameworks, of the standard library and of private modules in signatures, and names in prose that
# are no object: parameters, methods of other classes.
nitpick_ignore_regex = [("py:.*", ".*")]


def exact_builtins(app: Sphinx, doctree: nodes.document) -> None:
    """`type` and `set` in a signature are Python's, and not whatever of ours is called so."""
    for node in doctree.findall(pending_xref):
        if node.get("refdomain") == "py" and hasattr(builtins, node.get("reftarget", "")):
            node.attributes.pop("refspecific", None)


def complain(app: Sphinx, error: Exception | None) -> None:
    """A docstring that renders as something else is a warning, hence an error of ``make docs``."""
    if error is None and WARNINGS:
        raise RuntimeError("\n".join(sorted(set(WARNINGS))))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", sections)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-read", exact_builtins)
    app.connect("missing-reference", resolve)
    app.connect("build-finished", complain)
