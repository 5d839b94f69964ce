#!/usr/bin/env bash
# Puts `prometheus` and `promtool` into an environment's bin folder, for the tests that scrape with a real server.
# usage: tools/prometheus-server.sh VENV
# Debian's packages are unpacked, not installed: installing them would start a server on the machine of whoever runs the tests.
# Needs no root, only apt's package lists. What cannot be had it names and ends with 0; the tests that need it are skipped.
set -euo pipefail
venv=$(cd "$1" && pwd)

wanted=()
for program in prometheus promtool; do
  [ -x "$venv/bin/$program" ] || wanted+=("$program")
done
[ ${#wanted[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  for program in "${wanted[@]}"; do
    command -v "$program" >/dev/null || echo "prometheus-server: no apt here; install $program to run the tests that use it" >&2
  done
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As root apt downloads as the user _apt, who has to be able to write here.
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq "$1" </dev/null >&2); }
if ! download prometheus; then
  { [ "$(id -u)" -eq 0 ] && apt-get update -qq </dev/null >&2 && download prometheus; } || {
    echo "prometheus-server: 'apt-get download prometheus' failed; 'apt-get update' as root may help" >&2
    exit 0
  }
fi
dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
# Up to Debian 12 promtool lies in the server's package, from Debian 13 on it has one of its own.
if [ ! -x "$work/root/usr/bin/promtool" ] && download promtool; then
  dpkg-deb -x "$work"/promtool_*.deb "$work/root"
fi
for program in "${wanted[@]}"; do
  if [ -x "$work/root/usr/bin/$program" ]; then
    install -m 755 "$work/root/usr/bin/$program" "$venv/bin/"
  else
    echo "prometheus-server: there is no $program in the packages of this system; the tests that use it are skipped" >&2
  fi
done
