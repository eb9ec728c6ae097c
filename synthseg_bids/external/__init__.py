"""Programs of others whose segmentations are measured beside ours."""
