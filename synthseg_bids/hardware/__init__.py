"""What there is to compute with: devices, memory, the allocator of the C library."""
