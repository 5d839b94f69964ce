#!/usr/bin/env bash
# Builds what is published into dist/, and checks it: `make dist`.
#
# The sdist and the wheel are built twice, under another umask, time zone and file times; the wheel is built from the
# tree and from the sdist, as distributors do. All must be the same, byte for byte. Then the checks of PyPI and of
# linters, the list of parts (out/sbom.json), and a try in clean environments, one for each extra.
# SMOKE="prometheus memory" tries these extras alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$PWD/.venv/bin/python}
beside=$(dirname "$python")
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { (cd "$1" && "$python" -m hatchling build -t "$2" -d "$3" >/dev/null); }
unpack() { mkdir "$2" && tar -xf "$1"/*.tar.gz -C "$2" --strip-components 1; }

umask 022
build . sdist "$work/sdist"
build . wheel "$work/wheel"
unpack "$work/sdist" "$work/source"
build "$work/source" wheel "$work/wheel-from-sdist"
mkdir "$work/again"
tar -c --exclude=./.git --exclude=./.venv --exclude=./.venvs --exclude=./out --exclude=./dist . | tar -x -C "$work/again"
find "$work/again" -exec touch -d '2001-02-03' {} +
(umask 077 && chmod -R go-rwx "$work/again" && export TZ=Asia/Kathmandu \
  && build "$work/again" sdist "$work/sdist-again" && build "$work/again" wheel "$work/wheel-again")

same() { cmp "$1" "$2" || { echo "dist: $1 and $2 differ" >&2; exit 1; }; }
same "$work"/wheel/*.whl "$work"/wheel-from-sdist/*.whl
same "$work"/wheel/*.whl "$work"/wheel-again/*.whl
same "$work"/sdist/*.tar.gz "$work"/sdist-again/*.tar.gz

rm -rf dist
mkdir dist
cp "$work"/sdist/*.tar.gz "$work"/wheel-from-sdist/*.whl dist/
"$python" -m twine check --strict dist/*
"$beside/check-wheel-contents" dist/*.whl
"$beside/pyroma" --min 8 "$work/source"
"$python" tools/ci/smoke.py dist --sbom out/sbom.json ${SMOKE+--extras "$SMOKE"}
(cd dist && sha256sum ./*)
