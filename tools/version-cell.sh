#!/usr/bin/env bash
# Runs the suite with one CPython and the GStreamer of this machine, and prints the row for docs/versions.md.
# usage: tools/version-cell.sh [PYTEST ARGUMENTS]     LIFECYCLE_PYTHON=/path/to/python3 names another interpreter than the system's
# Status 1 if the suite failed; the row then says so. For an interpreter that is not the system's, PyGObject is built (as in
# tools/test-all-pythons.sh, which needs its headers).
set -uo pipefail
cd "$(dirname "$0")/.."
tools/environment.sh test || exit 1
python=.venv/bin/python
gst='import gi; gi.require_version("Gst", "1.0"); from gi.repository import Gst; print(*Gst.version()[:3], sep=".")'
if ! $python -c "$gst" >/dev/null 2>&1 && [ -n "${LIFECYCLE_PYTHON:-}" ]; then
  tools/system-packages.sh gstreamer-build
  pygobject="PyGObject<3.51"
  ! pkg-config --exists girepository-2.0 2>/dev/null || pygobject="PyGObject>=3.51"
  $python -m pip install -qq --disable-pip-version-check "$pygobject" </dev/null >&2
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
$python -m pytest -q --numprocesses "${WORKERS:-2}" --dist loadfile --max-worker-restart 0 "$@" 2>&1 | tee "$log" >&2
status=${PIPESTATUS[0]}

cpython=$($python -c 'import sys; print(sys.version.split()[0] + ("" if getattr(sys, "_is_gil_enabled", lambda: True)() else " without the GIL"))')
gstreamer=$($python -c "$gst" 2>/dev/null || echo none)
system=$( (. /etc/os-release && echo "${PRETTY_NAME%% (*}") 2>/dev/null || uname -s)
commit=$(git rev-parse --short HEAD 2>/dev/null || echo "no repository")
counts=$(grep -oE '([0-9]+ (failed|passed|skipped|errors?)(, )?)+' "$log" | tail -1)
echo "| $cpython | $gstreamer | $system | ${counts:-ended with status $status, without counts} | $commit |"
[ "$status" -eq 0 ]
