#!/bin/sh
# Makes a bare Debian or Ubuntu machine able to build isol8: a C toolchain, make, and Rust.
# Everything else (Docker, Redis, images) is the work of `isol8 setup`, once there is a binary.
# Safe to run at any time; does nothing when nothing is missing.
set -eu

required_rust=1.95

say() { printf '%s\n' "$*" >&2; }
fail() { say "[ERR] $*"; exit 1; }
have() { command -v "$1" > /dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "root is needed for: $*. Run this as root, or install sudo."
    fi
}

apt_install() {
    have apt-get || fail "missing: $*. Install them with this system's package manager."
    say "[INFO] installing $*"
    # The package lists are refreshed only if they are absent or too old.
    install_now "$@" || {
        as_root apt-get update -qq
        install_now "$@"
    }
}

install_now() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" > /dev/null
}

# True if version $1 is at least $2; both MAJOR.MINOR, further parts ignored.
at_least() {
    [ "${1%%.*}" -gt "${2%%.*}" ] && return 0
    [ "${1%%.*}" -eq "${2%%.*}" ] || return 1
    minor=${1#*.}
    [ "${minor%%.*}" -ge "${2#*.}" ]
}

rust_is_new_enough() {
    have cargo && have rustc || return 1
    version=$(rustc --version 2> /dev/null | cut -d ' ' -f 2)
    [ -n "$version" ] && at_least "$version" "$required_rust"
}

missing=""
have cc || missing="$missing gcc libc6-dev"
have make || missing="$missing make"
have pkg-config || missing="$missing pkg-config"
have curl || missing="$missing curl"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || apt_install $missing

# A toolchain that rustup installed is not on the path of every shell.
if ! rust_is_new_enough && [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    export PATH
    if rust_is_new_enough; then
        say "[INFO] Rust is in ${CARGO_HOME:-$HOME/.cargo}/bin; add it to PATH"
    fi
fi

if ! rust_is_new_enough; then
    if ! have rustup && have apt-get; then
        apt_install rustup || say "[WARN] this release has no rustup package"
    fi
    if have rustup; then
        say "[INFO] installing the Rust toolchain"
        rustup toolchain install stable --profile minimal > /dev/null \
            && rustup default stable > /dev/null \
            || say "[WARN] rustup could not install a toolchain"
    fi
    rust_is_new_enough || fail "Rust $required_rust or newer is needed to build isol8, and this system offers \
none. Install it with rustup (see the Rust project's site), make sure cargo is on PATH, and run this again."
fi
