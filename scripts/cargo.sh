#!/usr/bin/env bash
# cargo with this machine's one build of RocksDB: `scripts/cargo.sh test -p scatter-node`.
#
# A bare `cargo` would compile RocksDB again for each profile and target directory, which takes minutes; and since
# the variables below are inputs of that build, mixing the two ways builds twice. Commands that do not touch the node
# (scatter-core, scatter-sim) need no more than cargo itself.
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
ROCKSDB_LIB_DIR=$("$scripts/rocksdb.sh")
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
# On x86-64 Rust brings a fast linker of its own. Elsewhere mold, if it is there, steps in for the system's linker without
# a flag that cargo would take for a change of the build.
if [ "$(uname -m)" != x86_64 ] && command -v mold >/dev/null; then
    exec mold -run cargo "$@"
fi
exec cargo "$@"
