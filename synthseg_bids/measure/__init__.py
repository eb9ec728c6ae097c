"""Numbers about segmentations: overlap, volumes, agreement, quality."""
