"""SynthSeg for BIDS: segment brain scans of any contrast with a network trained on synthesis."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.segmenter import Segmenter

__version__ = '0.2.0.dev0'
__all__ = ['Segmenter', '__version__']


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import: only for those who segment.
    if name == 'Segmenter':
        from .inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
