"""``python -m synthseg_bids.cli``: the ``synthseg`` command, as ``torchrun -m`` starts it."""

import os
import sys

from .main import entry

if __name__ == '__main__':
    code = entry()
    if 'WORLD_SIZE' in os.environ:
        from ..training.distributed import leave

        leave(code)
    sys.exit(code)
