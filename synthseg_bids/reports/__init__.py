"""Reports and pictures of scans, segmentations and training."""
