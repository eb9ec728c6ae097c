"""The generative model: synthetic scans of random contrast from label maps.

Read :mod:`~synthseg_bids.synth.generator` first; it lists the steps in the paper's order, and each
step has a module of its own. Every step separates *draw* (random parameters from one
``torch.Generator``, on the CPU) from *apply* (deterministic, on any device).
"""
