#!/usr/bin/env bash
# Makes .venv fit for one of the Makefile's targets; does nothing when it already is.
# usage: tools/environment.sh demo|test|bench|lint|types|docs|dist|recipes
#
# What docs/recipes is about is big, and brings versions of its own: it has an environment beside, .venv-recipes.
#
# GStreamer's Python bindings come from the distribution, so the environment is made with --system-site-packages from an
# interpreter that sees them: Debian's own /usr/bin/python3 where there is one. LIFECYCLE_PYTHON names another.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv

case ${1:?usage: tools/environment.sh demo|test|bench|lint|types|docs|dist|recipes} in
  demo) group=demo parts=(python gstreamer) ;;
  test) group=dev parts=(python gstreamer gstreamer-tests gpu) ;;
  bench) group=dev parts=(python gstreamer gstreamer-tests gpu) ;;
  lint) group=dev parts=(python) ;;
  types) group=types parts=(python) ;;
  docs) group=docs parts=(python gstreamer) ;;
  dist) group=dist parts=(python) ;;
  recipes) group=recipes parts=(python recipes) venv=.venv-recipes ;;
  *) echo "environment: no target named '$1'" >&2; exit 2 ;;
esac

tools/system-packages.sh "${parts[@]}"

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
python=
for candidate in ${LIFECYCLE_PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
  if path=$(command -v "$candidate") && usable "$path"; then python=$path; break; fi
done
[ -n "$python" ] || { echo "environment: no CPython 3.10 or newer with the venv module was found" >&2; exit 1; }

# One stamp per group of dependencies; what it hashes is what the environment depends on: interpreter, dependencies, place.
key=$({ "$python" -c 'import sys; print(sys.version, sys.executable)'; sed '/^\[tool\./q' pyproject.toml; cat tools/environment.sh; pwd; } | cksum | tr ' ' -)
stamp=$venv/stamp-$group-$key
held=no  # by dev, which holds what the demo needs
[ "$group" != demo ] || [ ! -e "$venv/stamp-dev-$key" ] || held=yes
if [ ! -e "$stamp" ] && [ $held = no ]; then
  if ! ls $venv/stamp-*-"$key" >/dev/null 2>&1; then
    echo "environment: making $venv from $python" >&2
    rm -rf $venv
    "$python" -m venv --system-site-packages $venv
    # Groups of dependencies are known to pip from 25.1 on; Debian 12 has 23.0.
    $venv/bin/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1" </dev/null >&2
  fi
  echo "environment: installing native-lifecycle and the group $group" >&2
  $venv/bin/python -m pip install -qq --disable-pip-version-check --editable . --group "$group" </dev/null >&2
  : > "$stamp"
fi

[ "$1" != test ] || tools/prometheus-server.sh "$venv"
