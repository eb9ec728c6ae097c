"""Read, check and write volumes; voxel grids."""
