#!/usr/bin/env bash
# Makes sure that what the build needs is on this machine, and installs from Debian what is missing.
#
#   scripts/deps.sh         what building and testing needs: cargo, a C++ compiler, libclang, flock
#   scripts/deps.sh lint    rustfmt and clippy as well
#
# Quiet and quick when nothing is missing. Rust itself is never installed: which toolchain, and how, is its owner's choice.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "deps: $*" >&2; }
fail() { say "$*"; exit 1; }

# RocksDB's bindings are made with libclang: the library, and the compiler's own headers that come with libclang-dev.
has_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then return 0; fi
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null \
        && compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null && return 0
    # Other systems keep it elsewhere; a clang on the path knows its own headers.
    command -v clang >/dev/null && command -v llvm-config >/dev/null
}

check_rust() {
    command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs and run this again"
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$top/Cargo.toml")
    have=$(rustc --version | awk '{print $2}')
    if [ "$(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
        fail "Rust $have is too old, $wanted or newer is needed; with rustup: rustup update stable"
    fi
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "missing: $*; install them as root (apt-get install $*)"
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || fail "missing: $*; there is no apt-get here, install them by hand"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -q)
    say "installing with apt-get: $*"
    # The lists may be stale or absent; a mirror that fails now may still have what the lists name.
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the lists there are"
    "${apt[@]}" install -y --no-install-recommends "$@" >&2 || fail "apt-get could not install: $*"
}

check_packages() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc)
    command -v c++ >/dev/null || missing+=(g++)
    command -v flock >/dev/null || missing+=(util-linux)
    has_libclang || missing+=(libclang-dev)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

check_lint() {
    local missing=()
    cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
    [ ${#missing[@]} = 0 ] && return
    command -v rustup >/dev/null || fail "missing: ${missing[*]}; they belong to the Rust toolchain, install them with it"
    say "adding to the Rust toolchain: ${missing[*]}"
    rustup component add "${missing[@]}" >&2 || fail "rustup could not add: ${missing[*]}"
}

check_rust
check_packages
if [ "${1:-}" = lint ]; then check_lint; fi
