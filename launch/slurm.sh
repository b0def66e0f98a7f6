#!/usr/bin/env bash
# Runs an experiment on SLURM, with one process per GPU:
#
#   launch/slurm.sh [--dry-run] --config=configs/talk.py --workdir=DIR [--config.x=y ...]
#
# The checkout and DIR must be on a shared file system. Nodes, GPUs and time limit are set below;
# sbatch's environment variables override them (SBATCH_TIMELIMIT, SBATCH_PARTITION, SBATCH_ACCOUNT,
# ...). EXTRA selects the extra to install: [cuda12] (the default), [cuda13], or empty for CPUs.
#
#SBATCH --job-name=mmgc_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=mmgc_jax-%j.log
#SBATCH --open-mode=append
# Send SIGTERM three minutes before the time limit. The job then writes a checkpoint and is requeued.
#SBATCH --signal=TERM@180
#SBATCH --requeue
set -euo pipefail

if [ -z "${SLURM_JOB_ID-}" ]; then # on the login node
    cd "$(dirname "$0")/.."
    submit=(sbatch launch/slurm.sh)
    if [ "${1-}" = --dry-run ]; then
        shift
        printf '%q ' "${submit[@]}" "$@"
        echo "# in $PWD, with:"
        grep '^#SBATCH' launch/slurm.sh
        exit
    fi
    exec "${submit[@]}" "$@"
fi

# On the first node of the job: install a virtual environment, then run the command on all nodes.
cd "$SLURM_SUBMIT_DIR"
python3 -m venv .venv
.venv/bin/pip install --quiet --editable ".${EXTRA-[cuda12]}"

code=0
srun --kill-on-bad-exit=0 .venv/bin/python -m mmgc_jax.main --distributed "$@" || code=$?
if [ "$code" = 75 ]; then # stopped by a signal after writing a checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
