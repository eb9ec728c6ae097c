"""Volumes and their geometry: reading, checking and writing files."""
