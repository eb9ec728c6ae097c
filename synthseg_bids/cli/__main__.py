"""``python -m synthseg_bids.cli``: the ``synthseg`` command, as ``torchrun -m`` starts it."""

from .main import entry

if __name__ == '__main__':
    entry()
