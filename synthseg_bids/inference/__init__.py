"""Segment a scan with a trained network."""
