#!/bin/bash
# Segment a BIDS dataset with an array of Slurm jobs, then make the tables and reports of the
# group in a job that depends on them:
#
#   TASKS=20 SIF=synthseg-bids.sif examples/slurm_array.sh BIDS_DIR OUTPUT_DIR [OPTIONS]
#
# prints the numbers of both jobs. OPTIONS are those of synthseg-bids. The same command again goes
# on where jobs have ended early. Set in the environment, if at all:
#
#   TASKS  number of jobs; each takes its share of the participants (default: 10)
#   CPUS   processors of each job (default: 4)
#   SIF    image for Apptainer (default: the synthseg-bids that is installed)
#   BIND   further folders for the image, separated by commas, such as those of references
#   SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_GPUS=1, ...: see man sbatch
#
#SBATCH --job-name=synthseg-bids
#SBATCH --mem=8G
# A minute before its time is over, a job is told to end: it leaves complete files only.
#SBATCH --signal=B:TERM@60
set -euo pipefail

if [ "${1:-}" != --job ]; then
    bids_dir=$(realpath -m "$1") output_dir=$(realpath -m "$2")
    shift 2
    job=("$0" --job "$bids_dir" "$output_dir" "${TASKS:-10}" "$@")
    array=$(sbatch --parsable --array="1-${TASKS:-10}" --cpus-per-task="${CPUS:-4}" \
        --output=synthseg-bids-%A_%a.log "${job[@]}")
    array=${array%%;*}
    # Tables and reports need no GPU.
    group=$(env -u SBATCH_GPUS -u SBATCH_GPUS_PER_NODE -u SBATCH_GPUS_PER_TASK -u SBATCH_GRES \
        sbatch --parsable --dependency="afterany:$array" \
        --output="synthseg-bids-${array}_group.log" "${job[@]}")
    echo "participants: job $array; group: job ${group%%;*}"
    exit
fi

bids_dir=$2 output_dir=$3 tasks=$4
shift 4
# Intermediate files belong on the node's own disk.
work_dir=$(mktemp --directory)
trap 'rm -rf "$work_dir"' EXIT
command=(synthseg-bids)
if [ -n "${SIF:-}" ]; then
    mkdir -p "$output_dir"
    command=(apptainer run --cleanenv --containall
        --bind "$bids_dir:$bids_dir:ro" --bind "$output_dir" --bind "$work_dir")
    [ -z "${BIND:-}" ] || command+=(--bind "$BIND")
    [ -z "${CUDA_VISIBLE_DEVICES:-}" ] ||
        command+=(--nv --env "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES")
    command+=("$SIF")
fi
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    command+=("$bids_dir" "$output_dir" participant --batch "$SLURM_ARRAY_TASK_ID/$tasks"
        -w "$work_dir" --nprocs "${SLURM_CPUS_PER_TASK:-1}" "$@")
else
    command+=("$bids_dir" "$output_dir" group)
fi

"${command[@]}" &
trap 'kill -TERM $!' TERM
code=0
wait $! || code=$?
# A signal ends the first wait.
if kill -0 $! 2>/dev/null; then
    code=0
    wait $! || code=$?
fi
exit $code
