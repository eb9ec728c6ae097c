"""Devices, memory, threads, and settings that processes start with."""
