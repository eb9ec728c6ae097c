"""Training and calibration of a network."""
