#!/usr/bin/env bash
# Sees that a tag, the version of the project and the newest heading of the changelog are one.
# usage: tools/ci/version.sh v1.2.3
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=${1:?usage: tools/ci/version.sh v1.2.3}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
cited=$(sed -n 's/^version: \(.*\)$/\1/p' CITATION.cff)
heading=$(sed -n 's/^## \([0-9][^ ]*\).*$/\1/p' CHANGELOG.md | head -1)
failed=
for found in "the tag:${tag#v}" "CITATION.cff:$cited" "the newest heading of CHANGELOG.md:${heading:-none}"; do
  [ "${found#*:}" = "$version" ] || { echo "version: pyproject.toml says $version, ${found%%:*} says ${found#*:}" >&2; failed=yes; }
done
[ -z "$failed" ]
