"""Faults that other tests than test_faults.py::test_fault bring about, and what is observed."""

from __future__ import annotations

from dataclasses import dataclass

from faults import HALF, NEITHER, NOTHING, Observed


@dataclass(frozen=True)
class Elsewhere(Observed):
    """A fault, and the test that compares what it sees with this.

    Attributes
    ----------
    test : str
        File and name.
    """

    test: str


_PLUGIN = 'tests/slurm/test_plugin.py::'
_ARRAY = 'tests/slurm/test_array.py::'

SLURM_JOBS = Elsewhere(
    'jobs of the plugin SLURM end early',
    'of five images one job each is cancelled (``scancel``), killed (``kill -9``), out of time '
    '(its end is set to now) and out of memory (``ulimit -v``); the line of each names its log',
    1,
    '1 done, 0 skipped, 4 failed',
    'its batch job ended without a result (killed, or out of memory or time): TIMEOUT',
    '4 done, 1 skipped, 0 failed',
    f'{_PLUGIN}test_killed_jobs_fail_alone',
)
SLURM_RUN = Elsewhere(
    'run with the plugin SLURM terminated',
    'SIGTERM while the first of three images is segmented; all its jobs are cancelled',
    143,
    '',
    'terminated; the same command resumes',
    '3 done, 0 skipped, 0 failed',
    f'{_PLUGIN}test_jobs_end_with_the_run',
)
SLURM_REFUSES = Elsewhere(
    'Slurm refuses a job',
    'a partition that does not exist',
    2,
    '',
    'sbatch: error: Batch job submission failed: Invalid partition',
    '2 done, 0 skipped, 0 failed',
    f'{_PLUGIN}test_what_slurm_refuses_is_said_in_one_line',
)
ARRAY_TASK = Elsewhere(
    'task of a job array cancelled',
    '``scancel`` of one of three tasks; the others and the job of the group complete',
    'CANCELLED',
    '',
    'CANCELLED AT',
    '1 done, 0 skipped, 0 failed',
    f'{_ARRAY}test_cancelled_task_leaves_the_others_and_is_done_next_time',
)
TWO_RUNS = Elsewhere(
    'the same command twice at once',
    'the second one is started while the first one segments; this is what the second one says',
    0,
    '0 done, 1 skipped, 0 failed',
    'sub-01: another run is at work on it',
    '0 done, 1 skipped, 0 failed',
    'tests/app/test_bad_input.py::test_two_runs_at_once',
)
GPU_MEMORY = Elsewhere(
    'GPU out of memory, whatever is tried',
    'simulated: the network raises the error of PyTorch for the first image, at once and in '
    'tiles; the status table has the line',
    0,
    NEITHER,
    'out of memory for an image of 18 x 20 x 25 voxels; continuing on the CPU',
    NOTHING,
    'tests/app/test_faults.py::test_gpu_fault',
)
GPU_LOST = Elsewhere(
    'GPU lost',
    'simulated: from the second image on, the network raises the error of PyTorch; the status '
    'table has the line',
    0,
    NEITHER,
    'CUDA error: unspecified launch failure; continuing on the CPU',
    NOTHING,
    'tests/app/test_faults.py::test_gpu_fault',
)
GPU_LOST_FOR_GOOD = Elsewhere(
    'GPU lost, with ``--no-gpu-fallback``',
    'the same',
    1,
    HALF,
    'CUDA error: unspecified launch failure',
    '1 done, 1 skipped, 0 failed',
    'tests/app/test_faults.py::test_gpu_fault',
)

ELSEWHERE = (
    *(SLURM_JOBS, SLURM_RUN, SLURM_REFUSES, ARRAY_TASK, TWO_RUNS),
    *(GPU_MEMORY, GPU_LOST, GPU_LOST_FOR_GOOD),
)
