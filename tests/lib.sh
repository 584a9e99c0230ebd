# SPDX-License-Identifier: LGPL-2.1-or-later
# What the stages of tests/run share. Sourced, never run.
# shellcheck shell=bash

# Where what is slow to build is kept, by the content it was built from.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/xen-pci-layout
mkdir -p "$CACHE"
export CACHE

# The checkout's top, whatever the caller's directory.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export TOP

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need PACKAGE...: installs the Debian packages that are not there yet.
need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "needs root to install: ${missing[*]}"
    apt_update_once
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "cannot install: ${missing[*]}"; }
}

# Refreshes the package lists if that was not done within the last hour: an old list names files that are gone.
apt_update_once() {
    [ -n "$(find "$CACHE/apt-updated" -mmin -60 2>/dev/null)" ] && return
    apt-get update -q >"$CACHE/apt.log" 2>&1 || { tail -n 20 "$CACHE/apt.log" >&2; die "apt-get update failed"; }
    touch "$CACHE/apt-updated"
}
