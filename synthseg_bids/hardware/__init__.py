"""Devices, memory, and settings of the C library's memory allocator."""
