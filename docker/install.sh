#!/bin/sh
# Install synthseg-bids and what it needs, in tested versions, into a folder of its own.
# For images: run in the root of the repository, with the Python and pip of the image.
# Usage: sh docker/install.sh FOLDER DEVICE TORCH_INDEX
#
# DEVICE: "cuda" for the build of PyTorch in pip's own index, which on Linux computes on GPUs of
# NVIDIA and on the CPU; or another one, such as "cpu" or "cu126". TORCH_INDEX: where pip finds it
# beside its usual indexes; empty: only there; "default": as DEVICE needs it.
set -eu
folder=$1
device=$2
torch_index=$3
if [ "$torch_index" = default ]; then
    torch_index=https://download.pytorch.org/whl/$device
    [ "$device" != cuda ] || torch_index=
fi

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
# Another gigabyte of CUDA: Triton needs a C compiler, which the image has not; the others are for
# profilers, for several GPUs at once, and for linking, and PyTorch does not load them.
rm -rf triton nvidia/*/include nvidia/*/lib/*.a nvidia/*/lib/*.bc
for name in cusolverMg nvrtc.alt nvrtc-builtins.alt nvblas cufftw checkpoint nvperf_host \
    nvperf_target pcsamplingutil; do
    rm -f nvidia/*/lib/lib$name*
done
