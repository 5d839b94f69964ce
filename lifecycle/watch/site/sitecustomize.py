"""First of all in a program that ``lifecycle run`` starts. Goes without a trace: its folder out of
`sys.path`, and the interpreter's own `sitecustomize` in its place."""

import os
import sys

HERE = os.path.dirname(__file__)


def _lifecycle() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(HERE))))
    sys.path.insert(0, root)
    try:
        from lifecycle.watch.beginning import begin

        begin()
    except Exception as error:
        sys.stderr.write(f"lifecycle: nothing is watched: {type(error).__name__}: {error}\n")
    finally:
        if root in sys.path:
            sys.path.remove(root)


def _own() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        # `site` passes over this one, and nothing of us stays in `sys.modules`.
        raise ImportError("no sitecustomize", name="sitecustomize")
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


# The entry of `sys.path` that led here, as it stands there. Left in, it would lead `_own` here again. This
# goes for a child as well that was given this `PYTHONPATH` but not the other variable.
sys.path[:] = [path for path in sys.path if path != HERE]
if os.environ.get("LIFECYCLE_RUN"):
    _lifecycle()
_own()
