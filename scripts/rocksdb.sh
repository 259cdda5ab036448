#!/usr/bin/env bash
# Compiles RocksDB once per machine and prints the folder that holds librocksdb.a.
#
# The compilation takes minutes, and cargo would repeat it for each profile and target directory. So it is
# done here, in a folder of its own under the user's cache, and the workspace links the result through
# ROCKSDB_LIB_DIR. The folder's name carries the crate version and the processor, so an upgrade builds anew.
# If several ask at once, one builds and the others wait.
#   SCATTER_CACHE   where to keep it (default: $XDG_CACHE_HOME/scatter or ~/.cache/scatter)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${SCATTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scatter}
version=$(awk '/^name = "librocksdb-sys"$/ {getline; gsub(/[",]/, ""); print $3}' "$top/Cargo.lock")
[ -n "$version" ] || { echo "rocksdb.sh: librocksdb-sys is not in Cargo.lock" >&2; exit 1; }
place="$cache/rocksdb-$version-lz4-$(uname -m)"

say() { echo "rocksdb: $*" >&2; }

write_crate() {
    mkdir -p "$place/build/src"
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
}

# Shows how far the build is: every two seconds on a terminal, else every half minute on a line of its own.
show_progress() {
    local build=$1 started=$SECONDS sources objects line last=-30
    sources=$(cat "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"librocksdb-sys-$version"/rocksdb_lib_sources.txt \
        2>/dev/null | wc -w) || true
    [ "${sources:-0}" -gt 0 ] || sources=343
    while kill -0 "$build" 2>/dev/null; do
        objects=$(find "$place/build/target" -name '*.o' 2>/dev/null | wc -l)
        line="rocksdb: $objects of about $sources files compiled, $((SECONDS - started)) s"
        if [ -t 2 ]; then
            printf '\r%s ' "$line" >&2
        elif [ $((SECONDS - last)) -ge 30 ]; then
            echo "$line" >&2
            last=$SECONDS
        fi
        sleep 2
    done
    [ ! -t 2 ] || printf '\n' >&2
}

compile() {
    say "compiling RocksDB ${version#*+} once for this machine (about 13 minutes on two cores) into $place"
    write_crate
    cd "$place/build"
    # The names that would make this build link what it is to produce, or put it elsewhere.
    unset ROCKSDB_LIB_DIR ROCKSDB_STATIC CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR CARGO_BUILD_TARGET RUSTFLAGS
    # Without the lock's descriptor: a compiler that outlives an interrupted build must not keep the lock.
    cargo build --release --target-dir "$place/build/target" >"$place/build.log" 2>&1 9>&- &
    local build=$! built
    trap 'kill -INT "$build" 2>/dev/null; say "interrupted; the next build starts over"; exit 130' INT TERM HUP
    show_progress "$build"
    wait "$build" || { tail -n 30 "$place/build.log" >&2; say "failed; the whole log: $place/build.log"; exit 1; }
    trap - INT TERM HUP
    built=$(find "$place/build/target" -name librocksdb.a | head -n 1)
    [ -n "$built" ] || { say "cargo made no librocksdb.a"; exit 1; }
    cp "$built" "$place/librocksdb.a.new"
    mv "$place/librocksdb.a.new" "$place/librocksdb.a"
    cd "$place"
    rm -rf "$place/build"
    say "done"
}

if [ ! -f "$place/librocksdb.a" ]; then
    mkdir -p "$place"
    exec 9>"$place/lock"
    flock -n 9 || { say "another build of it is under way; waiting"; flock 9; }
    [ -f "$place/librocksdb.a" ] || compile
fi
echo "$place"
