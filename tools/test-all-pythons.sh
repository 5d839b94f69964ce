#!/usr/bin/env bash
# Runs the suite on every CPython 3.10-3.14 found on PATH or under pyenv, each in an environment of its own (.venvs/X.Y).
# usage: tools/test-all-pythons.sh [PYTEST ARGUMENTS]     PYTHONS="python3.10 /path/to/python3.13t" names them instead
# PyGObject is built for each where its headers are (as root they are installed); otherwise the GStreamer tests are skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
tools/system-packages.sh gstreamer-build

# girepository 2.0 (Debian 13 and later) is what PyGObject 3.51 and newer are built on.
if pkg-config --exists girepository-2.0 2>/dev/null; then
  pygobject="PyGObject>=3.51"
elif pkg-config --exists gobject-introspection-1.0 2>/dev/null; then
  pygobject="PyGObject<3.51"
else
  pygobject=
fi

candidates() {
  for minor in 10 11 12 13 14; do
    command -v "python3.$minor" "python3.${minor}t"
    ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.$minor.*/bin/python3 2>/dev/null
  done
}

failed=() seen=" "
for python in ${PYTHONS:-$(candidates)}; do
  # A pyenv shim without a chosen version answers nothing here and is passed over.
  version=$("$python" -c 'import sys, sysconfig; print("%d.%d" % sys.version_info[:2] + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' 2>/dev/null) || continue
  case $seen in *" $version "*) continue ;; esac
  seen+="$version "
  venv=.venvs/$version
  stamp=$venv/stamp-$({ "$python" -c 'import sys; print(sys.version)'; echo "$pygobject"; sed '/^\[tool\./q' pyproject.toml; pwd; } | cksum | tr ' ' -)
  if [ ! -e "$stamp" ]; then
    echo "test-all-pythons: making $venv from $python" >&2
    rm -rf "$venv"
    # Newer versions of these have no wheel for CPython 3.13 without the GIL, and building them takes long.
    also=; [ "$version" != 3.13t ] || also="hypothesis<6.140 numpy<2.4"
    { "$python" -m venv "$venv" && "$venv/bin/python" -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1" \
      && "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable . --group test $also; } </dev/null >&2 \
      || { failed+=("$version (environment)"); continue; }
    # PyGObject turns the GIL on again, and what is wanted there is a run without it.
    if [ -n "$pygobject" ] && [[ $version != *t ]] && ! "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$pygobject" </dev/null >&2; then
      echo "test-all-pythons: PyGObject could not be built for $version; its GStreamer tests are skipped" >&2
    fi
    tools/prometheus-server.sh "$venv"
    : > "$stamp"
  fi
  echo "== $version ($python)"
  "$venv/bin/python" -m pytest -q --numprocesses "${WORKERS:-2}" --dist loadfile --max-worker-restart 0 "$@" || failed+=("$version")
done

if [ ${#failed[@]} -gt 0 ]; then echo "test-all-pythons: failed on ${failed[*]}" >&2; exit 1; fi
echo "test-all-pythons: passed on$seen"
