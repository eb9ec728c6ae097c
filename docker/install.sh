#!/bin/sh
# Install synthseg-bids and what it needs, in tested versions, into a folder of its own.
# For images: run in the root of the repository, with the Python and pip of the image.
# Usage: sh docker/install.sh FOLDER [TORCH_INDEX]
set -eu
folder=$1
torch_index=${2:-}

# Modes as they should be, whoever runs the image.
umask 022
python -m venv --without-pip "$folder"
install() {
    pip --python "$folder/bin/python" install --no-cache-dir --constraint constraints.txt "$@"
}
# First, since only PyTorch may come from its own index.
install ${torch_index:+--extra-index-url "$torch_index"} torch
install '.[official]' bids-validator-deno

# A third of a gigabyte that only compilers and developers use.
cd "$folder"/lib/python*/site-packages
rm -rf torch/include torch/share torch/test torch/lib/*.a
find torch/bin -type f ! -name torch_shm_manager -delete
find . -type d -name tests -prune -exec rm -rf {} +
