"""Train and calibrate a network."""
