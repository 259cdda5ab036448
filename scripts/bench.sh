#!/usr/bin/env bash
# Measures Scatter against etcd and a bare HTTP server on this machine and writes docs/benchmarks.md.
#
# Builds the release binaries, installs Debian's etcd-server if there is no etcd, and runs `scatter-bench compare`.
# Arguments are handed on (`scripts/bench.sh --rounds 1 --connections 64,256`); a later one overrides these here.
#   ETCD   which etcd to measure (default: the one on the PATH)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
etcd=${ETCD:-etcd}
if ! command -v "$etcd" >/dev/null; then
    echo "bench.sh: no etcd here; installing Debian's etcd-server (only its program is used, not its service)" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    # The package would start its service, which would share the processor with what is measured.
    "${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends etcd-server >&2
fi
ROCKSDB_LIB_DIR=$(scripts/rocksdb.sh)
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
echo "bench.sh: building the release binaries" >&2
cargo build --release -p scatter-node -p scatter-gateway -p scatter-bench
binaries=${CARGO_TARGET_DIR:-target}/release
echo "bench.sh: measuring (about ten minutes); leave the machine alone meanwhile" >&2
exec "$binaries/scatter-bench" compare --etcd "$etcd" --gap-trials 5 \
    --made-by "scripts/bench.sh${*:+ $*}" --json "$binaries/benchmarks.json" \
    --write docs/benchmarks.md "$@"
