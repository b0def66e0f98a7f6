#!/usr/bin/env bash
# Runs an experiment on this machine in several processes, which communicate over loopback:
#
#   launch/local.sh [--dry-run] -n 2 --config=configs/demo.py --workdir=runs/demo [--config.x=y ...]
#
# mmgc_jax must be installed: pip install -e . (or ".[cuda12]"). Each process uses one GPU. To use all
# GPUs in a single process, run mmgc_jax.main without this script.
set -euo pipefail
cd "$(dirname "$0")/.."

dry_run=
if [ "${1-}" = --dry-run ]; then dry_run=1; shift; fi
if [ "${1-}" != -n ]; then
    echo "usage: $0 [--dry-run] -n PROCESSES --config=FILE --workdir=DIR" >&2
    exit 2
fi
processes=$2
shift 2

port=$(python -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes
command=(python -m mmgc_jax.main --distributed "$@")

pids=()
for ((process = 0; process < processes; process++)); do
    export JAX_PROCESS_ID=$process JAX_LOCAL_DEVICE_IDS=$process
    if [ "$dry_run" ]; then
        env | grep ^JAX_ | sort | tr '\n' ' '
        printf '%q ' "${command[@]}"
        echo
    else
        "${command[@]}" &
        pids+=($!)
    fi
done
if [ "$dry_run" ]; then exit; fi

# Forward SIGTERM, wait for all processes, and exit with the status of a process that failed.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
code=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done # a signal interrupts `wait`
    wait "$pid" || code=$?
done
exit "$code"
