"""Pictures of scans, segmentations and training."""
