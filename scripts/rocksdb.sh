#!/usr/bin/env bash
# Compiles RocksDB once per machine and prints the folder that holds librocksdb.a.
#
# The compilation takes minutes, and cargo would repeat it for each profile and target directory. So it is
# done here, in a folder of its own under the user's cache, and the workspace links the result through
# ROCKSDB_LIB_DIR. The folder's name carries the crate version and the processor, so an upgrade builds anew.
#   SCATTER_CACHE   where to keep it (default: $XDG_CACHE_HOME/scatter or ~/.cache/scatter)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${SCATTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scatter}
version=$(awk '/^name = "librocksdb-sys"$/ {getline; gsub(/[",]/, ""); print $3}' "$top/Cargo.lock")
[ -n "$version" ] || { echo "rocksdb.sh: librocksdb-sys is not in Cargo.lock" >&2; exit 1; }
place="$cache/rocksdb-$version-lz4-$(uname -m)"
if [ ! -f "$place/librocksdb.a" ]; then
    mkdir -p "$place/build/src"
    exec 9>"$place/lock"
    flock 9
    if [ ! -f "$place/librocksdb.a" ]; then
        echo "RocksDB $version: compiling it once for this machine (about 13 minutes on two cores) ..." >&2
        cat > "$place/build/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2021"
[dependencies]
librocksdb-sys = { version = "=$version", default-features = false, features = ["lz4", "bindgen-runtime"] }
[workspace]
TOML
        echo 'fn main() {}' > "$place/build/src/main.rs"
        (
            cd "$place/build"
            unset ROCKSDB_LIB_DIR ROCKSDB_STATIC CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
            cargo build --release --target-dir "$place/build/target" >"$place/build.log" 2>&1 &
            build=$!
            started=$SECONDS
            while kill -0 "$build" 2>/dev/null; do
                objects=$(find "$place/build/target" -name '*.o' 2>/dev/null | wc -l)
                printf '\r  %4d s, %3d objects compiled' $((SECONDS - started)) "$objects" >&2
                sleep 2
            done
            printf '\n' >&2
            wait "$build"
        ) || { tail -n 30 "$place/build.log" >&2; exit 1; }
        built=$(find "$place/build/target" -name librocksdb.a | head -n 1)
        cp "$built" "$place/librocksdb.a.new"
        mv "$place/librocksdb.a.new" "$place/librocksdb.a"
        rm -rf "$place/build"
    fi
fi
echo "$place"
