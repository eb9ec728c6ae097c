"""SynthSeg for BIDS: segment brain scans of any contrast with a network trained on synthesis."""

__version__ = '0.1.0'
