"""Tests and measurements of a machine with a GPU; see ``__main__``."""
