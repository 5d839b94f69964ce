#!/usr/bin/env bash
# Installs the Debian packages that a part of the project needs, only those that are missing.
# usage: tools/system-packages.sh PART...     parts: python, gstreamer, gstreamer-tests, gstreamer-build, gpu, qt, recipes, browser
# Without root, or without apt, it installs nothing: it prints the line to run and ends with 0, so that what can run does.
set -euo pipefail

wanted=()
for part in "$@"; do
  case $part in
    python) wanted+=(python3-venv) ;;
    gstreamer) # what the library, the demo and the README use: PyGObject, the core, appsink and the test sources
      wanted+=(python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base) ;;
    gstreamer-tests) # what the suite and the examples use beyond that: encoders and muxers, gst-python's overrides, OpenGL, WebRTC
      wanted+=(gstreamer1.0-plugins-good python3-gst-1.0 gstreamer1.0-gl xvfb
        gir1.2-gst-plugins-bad-1.0 gstreamer1.0-plugins-bad gstreamer1.0-nice) ;;
    gpu) # OpenGL without a window system and Vulkan, both by Mesa's software renderers
      wanted+=(libegl1 libgl1 libopengl0 libgl1-mesa-dri libvulkan1 mesa-vulkan-drivers) ;;
    qt) # a display, and what Qt's wheels need to draw on it
      wanted+=(xvfb libegl1 libgl1 libgl1-mesa-dri libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-randr0 libxcb-shape0
        libxcb-xkb1 libxcb-xinerama0 libxkbcommon-x11-0 libdbus-1-3 libfontconfig1) ;;
    browser) # draws the page of `lifecycle report` in the tests
      wanted+=(chromium) ;;
    recipes) # libraries of docs/recipes that have no wheels, and what others' wheels need
      wanted+=(python3-gdal python3-cairo libportaudio2 libegl1 libgl1) ;;
    gstreamer-build) # PyGObject for an interpreter that is not Debian's own
      wanted+=(libcairo2-dev pkg-config gcc)
      if apt-cache show libgirepository-2.0-dev >/dev/null 2>&1; then
        wanted+=(libgirepository-2.0-dev)
      else
        wanted+=(libgirepository1.0-dev)
      fi ;;
    *) echo "system-packages: no part named '$part'" >&2; exit 2 ;;
  esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "system-packages: this is no Debian or Ubuntu; with your system's packages, install what is named here as: ${wanted[*]}" >&2
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

line="apt-get install --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "system-packages: not root, going on without these. To have them, run: sudo apt-get update && sudo $line" >&2
  exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { DEBIAN_FRONTEND=noninteractive $line --yes -qq </dev/null >"$log" 2>&1; }
echo "system-packages: $line" >&2
# A package list that is missing or out of date is the usual reason to fail, so that alone is mended and tried again.
install || { apt-get update -qq </dev/null >&2 && install; } || {
  cat "$log" >&2
  exit 1
}
