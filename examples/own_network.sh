#!/bin/bash
# Train a network on label maps of heads, calibrate it, and segment a scan with it:
#
#   examples/own_network.sh LABEL_MAPS SCAN FOLDER FIT CHECK [OPTIONS]
#
# FIT and CHECK are parts of the names of two label maps, such as sub-13, that are not trained on:
# the posteriors are calibrated on synthetic scans of the first, and judged on those of the other.
# OPTIONS are those of "synthseg train". The same command goes on where it was interrupted.
set -euo pipefail

label_maps=$1 scan=$2 folder=$3 fit=$4 check=$5
shift 5
mkdir -p "$folder"

# Look at a few samples first: are the labels in the right places?
synthseg synthesize "$label_maps" "$folder/samples" -n 4 --preset synthseg-bids --steps

# On two CPU cores a step takes about a second; a checkpoint is saved on the way.
synthseg train "$label_maps" "$folder/run" --preset synthseg-bids \
    --validate-on "$fit" "$check" "$@"

# Posteriors become probabilities: of all voxels with 0.8, 80 % are right.
synthseg calibrate "$folder/run/model.safetensors" "$label_maps" "$folder/own.safetensors" \
    --fit-on "$fit" --check-on "$check"

synthseg segment "$scan" "$folder/labels.nii.gz" --model "$folder/own.safetensors" \
    --volumes "$folder/volumes.csv"
