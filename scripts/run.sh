#!/usr/bin/env bash
# Runs a local cluster: three nodes, a gateway and the admin page, each a process of its own on 127.0.0.1.
#
#   scripts/run.sh           all of them, until Ctrl-C or SIGTERM; `make run` builds first
#   scripts/run.sh node 2    node 2 alone, in the foreground: to start again one that was killed
#
# Node i listens on 7000+i for peers and on 7100+i for HTTP, the gateway on 8080, the admin page on 8081. Data, logs and
# pids are under data/; the next run finds the data again. A process that ends is reported, not restarted. Settings
# come from the environment as always: SCATTER_LOG__LEVEL=debug make run.
#   RUN_DATA         where data, logs and pids go (default: data)
#   RUN_PORT_OFFSET  added to every port (default: 0), for a second cluster beside the first
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
binaries=${CARGO_TARGET_DIR:-target}/debug
offset=${RUN_PORT_OFFSET:-0}
mkdir -p "${RUN_DATA:-data}"
data=$(cd "${RUN_DATA:-data}" && pwd)

nodes=(1 2 3)
zones=(a b c)
# How long the whole cluster may take to become ready, and a process to end.
ready_limit=120
stop_limit=20

say() { echo "run: $*"; }

peer_port() { echo $((7000 + offset + $1)); }

# Sets `name`, `port` and `command` for one process: node-1, node-2, node-3, gateway, admin.
describe() {
    local peers="" i
    for i in "${nodes[@]}"; do peers+="${peers:+,}127.0.0.1:$(peer_port "$i")"; done
    name=$1
    case $name in
        node-*)
            i=${name#node-}
            port=$((7100 + offset + i))
            command=("$binaries/scatter-node"
                --set "node.data_dir=$data/$name" --set "node.zone=${zones[i - 1]}"
                --set "peer.listen=127.0.0.1:$(peer_port "$i")" --set "http.listen=127.0.0.1:$port"
                --set "cluster.founders=$peers" --set "cluster.seeds=$peers")
            ;;
        gateway | admin)
            port=$((8080 + offset))
            [ "$name" = gateway ] || port=$((port + 1))
            command=("$binaries/scatter-$name" --set "http.listen=127.0.0.1:$port" --set "cluster.seeds=$peers")
            ;;
    esac
}

# The pid of a process of ours that lives, from its file. A pid that went to another program does not count.
living() {
    local pid program
    pid=$(cat "$data/$1.pid" 2>/dev/null) || return 1
    program=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
    case ${program##*/} in scatter-*) ;; *) return 1 ;; esac
    # Ended and not yet waited for.
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 1
    echo "$pid"
}

everything() { printf 'node-%s\n' "${nodes[@]}"; printf 'gateway\nadmin\n'; }

declare -A name_of=()

start() {
    local name port command
    describe "$1"
    [ -x "${command[0]}" ] || { say "${command[0]} is not there; build it with: make run"; exit 1; }
    [ ! -f "$data/$name.log" ] || mv "$data/$name.log" "$data/$name.log.1"
    # A session of its own: Ctrl-C must reach this script alone, which then ends the others in order.
    setsid "${command[@]}" </dev/null >"$data/$name.log" 2>&1 9>&- &
    name_of[$!]=$name
    echo $! >"$data/$name.pid"
}

# Asks a program whether it is able to serve; prints the reply.
ask_ready() {
    # shellcheck disable=SC2016 # The inner shell expands it.
    timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 1
        printf "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3
        head -c 4096 <&3' "$1" 2>/dev/null
}

is_ready() { [[ $(ask_ready "$1") == "HTTP/1.1 200"* ]]; }

wait_ready() {
    local waiting one name port command began=$SECONDS told=$SECONDS
    # shellcheck disable=SC2207 # Names of ours, without blanks.
    waiting=($(everything))
    while [ ${#waiting[@]} -gt 0 ]; do
        local still=()
        for one in "${waiting[@]}"; do
            describe "$one"
            if ! living "$one" >/dev/null; then
                say "$one ended before it was ready; its last words ($data/$one.log):"
                tail -n 15 "$data/$one.log"
                stop 1
            fi
            is_ready "$port" || still+=("$one")
        done
        waiting=("${still[@]}")
        [ ${#waiting[@]} -gt 0 ] || break
        if [ $((SECONDS - began)) -ge $ready_limit ]; then
            say "not ready after $ready_limit s: ${waiting[*]}"
            describe "${waiting[0]}"
            ask_ready "$port" | tail -n 1 || true
            stop 1
        fi
        if [ $((SECONDS - told)) -ge 5 ]; then
            say "waiting for: ${waiting[*]}"
            told=$SECONDS
        fi
        sleep 0.1
    done
}

# Ends everything and then this script, with the code given.
stop() {
    local code=$1 one pid began=$SECONDS left=()
    trap 'end_again' INT TERM HUP
    for one in $(everything); do
        pid=$(living "$one") || continue
        kill -TERM "$pid" 2>/dev/null || true
        left+=("$one")
    done
    [ ${#left[@]} = 0 ] || say "stopping: ${left[*]}"
    while [ ${#left[@]} -gt 0 ]; do
        local still=()
        for one in "${left[@]}"; do
            if pid=$(living "$one"); then still+=("$one"); fi
        done
        left=("${still[@]}")
        if [ ${#left[@]} -gt 0 ] && [ $((SECONDS - began)) -ge $stop_limit ]; then
            say "still there after $stop_limit s, killing: ${left[*]}"
            for one in "${left[@]}"; do
                if pid=$(living "$one"); then kill -KILL "$pid" 2>/dev/null || true; fi
            done
            code=1
        fi
        [ ${#left[@]} = 0 ] || sleep 0.1
    done
    for one in $(everything); do rm -f "$data/$one.pid"; done
    say "stopped; the data stays in $data"
    exit "$code"
}

# A second Ctrl-C: a second SIGTERM ends the programs at once.
end_again() {
    local one pid
    for one in $(everything); do
        if pid=$(living "$one"); then kill -TERM "$pid" 2>/dev/null || true; fi
    done
}

how_ended() {
    if [ "$1" -gt 128 ]; then
        echo "by signal $(kill -l $(($1 - 128)) 2>/dev/null || echo $(($1 - 128)))"
    else
        echo "with exit code $1"
    fi
}

# Reports processes that end, until nothing is left.
watch_over() {
    local ended code one
    while true; do
        ended="" code=0
        # Bash would tell of a killed process in its own words, too.
        { wait -n -p ended || code=$?; } 2>/dev/null
        if [ -n "$ended" ]; then
            one=${name_of[$ended]:-$ended}
            say "$one (pid $ended) ended $(how_ended "$code"); its log: $data/$one.log"
            case $one in node-*) say "start it again with: scripts/run.sh node ${one#node-}" ;; esac
            continue
        fi
        # None of this script's own is left; nodes started again by hand may be.
        for one in $(everything); do
            if living "$one" >/dev/null; then sleep 1; continue 2; fi
        done
        say "nothing is left running"
        stop 1
    done
}

run_one_node() {
    local name port command
    [[ " ${nodes[*]} " == *" ${1:-} "* ]] || { say "usage: scripts/run.sh [node ${nodes[0]}..${nodes[-1]}]"; exit 2; }
    describe "node-$1"
    ! living "$name" >/dev/null || { say "$name already runs as pid $(living "$name")"; exit 1; }
    say "$name in the foreground: http://127.0.0.1:$port"
    echo $$ >"$data/$name.pid"
    exec "${command[@]}"
}

main() {
    local one pid i
    exec 9>"$data/run.lock"
    flock -n 9 || { say "a cluster already runs on $data"; exit 1; }
    for one in $(everything); do
        if pid=$(living "$one"); then
            say "$one still runs as pid $pid, left over from an earlier run; end it with: kill $pid"
            exit 1
        fi
    done
    trap 'stop 0' INT TERM HUP
    say "starting three nodes, a gateway and the admin page on $data"
    for one in $(everything); do start "$one"; done
    wait_ready
    echo
    echo "Scatter is ready. Ctrl-C stops it."
    echo "  data      http://127.0.0.1:$((8080 + offset))/v1/kv/{key}"
    echo "  admin     http://127.0.0.1:$((8081 + offset))/"
    for i in "${nodes[@]}"; do
        echo "  node $i    http://127.0.0.1:$((7100 + offset + i))   pid $(cat "$data/node-$i.pid")"
    done
    echo "  logs      $data/*.log"
    echo "Try:  curl -X PUT --data hello http://127.0.0.1:$((8080 + offset))/v1/kv/greeting"
    echo "      curl http://127.0.0.1:$((8080 + offset))/v1/kv/greeting"
    watch_over
}

case ${1:-all} in
    all) main ;;
    node) run_one_node "${2:-}" ;;
    *) say "usage: scripts/run.sh [node ${nodes[0]}..${nodes[-1]}]"; exit 2 ;;
esac
