#!/usr/bin/env bash
# Runs an experiment as a managed spot job of SkyPilot, which restarts it on another machine after a
# preemption:
#
#   launch/skypilot.sh [--dry-run] --config=configs/talk.py --workdir=/share/runs/talk [--config.x=y ...]
#
# launch/skypilot.yaml configures the machines and the bucket that is mounted at /share.
set -euo pipefail
cd "$(dirname "$0")/.."

run=
if [ "${1-}" = --dry-run ]; then
    run=print
    shift
fi
print() {
    printf '%q ' "$@"
    echo
    cat launch/skypilot.yaml
}

$run sky jobs launch --yes --env ARGUMENTS="$(printf '%q ' "$@")" launch/skypilot.yaml
