"""Import what workers need, once, in the process that they are forked from.

None of it may initialise a GPU, which forked processes could not use.
"""

from __future__ import annotations

import signal
from importlib import import_module

from ..hardware.processes import importing

MODULES = (
    'synthseg_bids.interfaces',
    'synthseg_bids.inference.segmenter',
    'synthseg_bids.bids.tables',
    'synthseg_bids.reports.mosaic',
    'synthseg_bids.workflows.multiproc',
)

# An interrupt is for the main process, which ends this one.
_previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    with importing():
        for _module in MODULES:
            import_module(_module)
finally:
    signal.signal(signal.SIGINT, _previous)
