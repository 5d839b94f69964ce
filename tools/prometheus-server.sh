#!/usr/bin/env bash
# Puts `prometheus` and `promtool` into an environment's bin folder, for the tests that scrape with a real server.
# usage: tools/prometheus-server.sh VENV
# Debian's package is unpacked, not installed: installing it would start a server on the machine of whoever runs the tests.
# Needs no root, only apt's package lists. Where the two cannot be had it says so and ends with 0; those tests are skipped.
set -euo pipefail
venv=$(cd "$1" && pwd)

if [ -x "$venv/bin/promtool" ] && [ -x "$venv/bin/prometheus" ]; then exit 0; fi
if ! command -v apt-get >/dev/null; then
  command -v promtool >/dev/null || echo "prometheus-server: no apt here; install Prometheus to run the tests that scrape with it" >&2
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As root apt downloads as the user _apt, who has to be able to write here.
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq prometheus </dev/null >&2); }
if ! download; then
  { [ "$(id -u)" -eq 0 ] && apt-get update -qq </dev/null >&2 && download; } || {
    echo "prometheus-server: 'apt-get download prometheus' failed; 'apt-get update' as root may help" >&2
    exit 0
  }
fi
dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
install -m 755 "$work/root/usr/bin/prometheus" "$work/root/usr/bin/promtool" "$venv/bin/"
