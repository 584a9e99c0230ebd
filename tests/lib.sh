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

# need PACKAGE...: installs the Debian packages that are not there yet; stages that run at a time take turns.
need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "needs root to install: ${missing[*]}"
    apt_update_once
    local lock
    exec {lock}>"$CACHE/apt-install.lock"
    flock "$lock"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$CACHE/apt-install.log" 2>&1 ||
        { tail -n 20 "$CACHE/apt-install.log" >&2; die "cannot install: ${missing[*]}"; }
    exec {lock}>&-
}

# Refreshes the package lists if that was not done within the last hour: an old list names files that are gone.
apt_update_once() {
    local lock
    exec {lock}>"$CACHE/apt-update.lock"
    flock "$lock"
    if [ -n "$(find "$CACHE/apt-updated" -mmin -60 2>/dev/null)" ]; then exec {lock}>&-; return; fi
    apt-get update -q >"$CACHE/apt.log" 2>&1 || { tail -n 20 "$CACHE/apt.log" >&2; die "apt-get update failed"; }
    touch "$CACHE/apt-updated"
    exec {lock}>&-
}

# Sets KERNEL and KERNEL_VERSION: Debian's own kernel, unpacked into the cache with its modules, not installed.
debian_kernel() {
    local package download
    debian_kernel_package() { apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1; }
    package=$(debian_kernel_package)
    if [ -z "$package" ] || [ ! -d "$CACHE/audit-$package" ]; then
        apt_update_once
        package=$(debian_kernel_package)
    fi
    [ -n "$package" ] || die "Debian's linux-image-amd64 names no kernel"
    KERNEL_VERSION=${package#linux-image-}
    KERNEL=$CACHE/audit-$package
    export KERNEL KERNEL_VERSION
    [ ! -d "$KERNEL" ] || return 0
    rm -rf "$CACHE"/audit-linux-image-* "$CACHE/audit-kernel.new"
    mkdir -p "$CACHE/audit-kernel.new"
    download=$(mktemp -d)
    (cd "$download" && apt-get download -q -o APT::Sandbox::User=root "$package" >"$CACHE/apt.log" 2>&1) ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "cannot download $package"; }
    dpkg-deb --fsys-tarfile "$download"/linux-image-*.deb | tar -x -C "$CACHE/audit-kernel.new"
    rm -rf "$download"
    busybox depmod -b "$CACHE/audit-kernel.new" "$KERNEL_VERSION"
    mv "$CACHE/audit-kernel.new" "$KERNEL"
}

# suite_apt SUITE [deb-src]: sets `suite_options`, apt's for another Debian release's main archive than this machine runs, or for a release's
# sources, and refreshes its lists; the system's own sources stay as they are. Stages that run at a time take turns: until the shell that called this ends.
suite_apt() {
    need debian-archive-keyring
    local suite=$1 kind=${2:-deb} home=$CACHE/debian archive
    exec 7>"$CACHE/suite-apt.lock"
    flock 7
    apt_update_once
    # shellcheck disable=SC2016 # apt's own format, not the shell's
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' \
        'Component: main' | sort -u | head -n 1)
    [ -n "$archive" ] || die "apt has no source for Debian's main archive"
    mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
    printf '%s [arch=amd64 signed-by=%s] %s %s main\n' "$kind" /usr/share/keyrings/debian-archive-keyring.gpg \
        "$archive" "$suite" >"$home/$suite.list"
    suite_options=(-q -o APT::Architecture=amd64 -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o Dir::Etc::SourceList="$home/$suite.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$home/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$home/cache")
    apt-get "${suite_options[@]}" update >"$CACHE/apt.log" 2>&1 ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "apt-get update of $suite failed"; }
}

# suite_download PACKAGE DIRECTORY: that package of the suite that suite_apt was called for.
suite_download() {
    (cd "$2" && apt-get "${suite_options[@]}" download "$1") >"$CACHE/apt.log" 2>&1 ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "cannot download $1"; }
}

# fetch_loader SUITE PACKAGE: prints the path of that package's genuine hvmloader. Debian's package is unpacked and not
# installed, whatever release this machine runs.
fetch_loader() {
    local suite=$1 package=$2 kept work suite_options
    kept=$CACHE/hvmloader-$suite-$package
    if [ ! -s "$kept" ]; then
        suite_apt "$suite"
        work=$(mktemp -d "$CACHE/loader.XXXXXX")
        suite_download "$package" "$work"
        dpkg-deb -f "$work"/*.deb Version >"$kept.version"
        dpkg -x "$work"/*.deb "$work/tree"
        cp "$work"/tree/usr/lib/xen-*/boot/hvmloader "$kept.new"
        mv "$kept.new" "$kept"
        rm -rf "$work"
    fi
    printf '%s: %s %s\n' "$suite" "$package" "$(cat "$kept.version")" >&2
    printf '%s\n' "$kept"
}

# fetch_kernel SUITE: prints the path of that release's kernel image, unpacked as above; its modules are not kept.
fetch_kernel() {
    local suite=$1 kept=$CACHE/vmlinuz-$1 package work suite_options
    if [ ! -s "$kept" ]; then
        suite_apt "$suite"
        package=$(apt-cache "${suite_options[@]}" depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
        [ -n "$package" ] || die "linux-image-amd64 of $suite names no kernel"
        work=$(mktemp -d "$CACHE/kernel.XXXXXX")
        suite_download "$package" "$work"
        dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xO --wildcards './boot/vmlinuz-*' >"$work/vmlinuz"
        mv "$work/vmlinuz" "$kept"
        rm -rf "$work"
    fi
    printf '%s\n' "$kept"
}

# emulator: prints the path of the emulator's binary. Unicorn takes a minute to build, so its outcome is kept, for as
# long as the lock file stays what it is.
emulator() {
    need cmake make g++ libclang-dev
    local key
    key=$({ rustc --version; cat "$TOP/tests/emulator/Cargo.lock"; } | sha256sum | cut -c1-16)
    find "$CACHE" -maxdepth 1 -name 'emulator-*' ! -name "emulator-$key" -exec rm -rf {} +
    (cd "$TOP/tests/emulator" && CARGO_TARGET_DIR=$CACHE/emulator-$key cargo build --release --locked) >&2
    printf '%s\n' "$CACHE/emulator-$key/release/hvmloader-emulator"
}
