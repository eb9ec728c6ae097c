#!/bin/bash
# Train a network on the GPUs of one or several nodes of Slurm:
#
#   sbatch --nodes=2 --gpus-per-node=4 --time=1-0 examples/slurm_train.sh LABEL_MAPS OUT [OPTIONS]
#
# OPTIONS are those of "synthseg train". Every GPU has a process of its own; all nodes must see
# LABEL_MAPS and OUT. Five minutes before its time is over the job saves a checkpoint and queues
# up again, until the last step is done; so it does after a node has failed, or when Slurm takes
# its nodes for another job. The same command goes on after any other end, on any number of GPUs.
# Set in the environment, if at all:
#
#   PROCESSES  on each node (default: one for each of its GPUs, or one)
#
#SBATCH --job-name=synthseg-train
#SBATCH --output=synthseg-train-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
threads=$((SLURM_CPUS_PER_TASK / processes))
export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
# A step may take longer than the half minute that torchrun waits for its end.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

srun --ntasks="${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    torchrun --nnodes="${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}" --nproc-per-node="$processes" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
    --rdzv-endpoint="$first_node:$((20000 + SLURM_JOB_ID % 20000))" \
    -m synthseg_bids.cli train "$@" &
terminated=
# Told to end itself, srun would kill its tasks at once. Those of a job that is being cancelled
# have been told already.
trap 'terminated=yes; scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null || :' TERM
code=0
wait $! || code=$?
if [ -n "$terminated" ]; then
    # The signal has ended the first wait.
    code=0
    wait $! || code=$?
    # Jobs that were cancelled do not run any more, and stay away.
    if [ "$code" != 0 ] &&
        [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
