"""From a scan to its segmentation."""
