#!/usr/bin/env bash
# Runs an experiment on all hosts of a Cloud TPU:
#
#   TPU=my-tpu ZONE=us-central2-b launch/tpu_vm.sh [--dry-run] \
#       --config=configs/talk.py --workdir=gs://bucket/runs/talk [--config.x=y ...]
#
# TPU is the name that was passed to `gcloud compute tpus tpu-vm create`. Data, weights and the working
# directory must be in a bucket that the TPU's service account can access. Alternatively, set
# SHARE=10.0.0.2:/share to an NFS server on the same network, such as Filestore, which every host
# mounts at /mnt/share. The script runs the commit that is checked out. If a spot TPU was preempted,
# create it again and repeat the command.
set -euo pipefail
cd "$(dirname "$0")/.."

run=
if [ "${1-}" = --dry-run ]; then
    run='print'
    shift
fi
print() {
    printf '%q ' "$@"
    echo
}

source=$(mktemp -d)/mmgc_jax.tar.gz
$run git archive --format=tar.gz --output="$source" HEAD

mount=
if [ -n "${SHARE-}" ]; then
    mount="sudo mkdir -p /mnt/share
mountpoint -q /mnt/share || sudo mount -t nfs $SHARE /mnt/share"
fi
# The script that each host runs. JAX detects the other hosts.
on_each_host=$(
    cat <<END
set -euo pipefail
$mount
mkdir -p mmgc_jax && tar -xzf mmgc_jax.tar.gz -C mmgc_jax && cd mmgc_jax
python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu,gcs]'
.venv/bin/python -m mmgc_jax.main --distributed $(printf '%q ' "$@")
END
)
$run gcloud compute tpus tpu-vm scp "$source" "$TPU:mmgc_jax.tar.gz" --zone="$ZONE" --worker=all
$run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$on_each_host"
