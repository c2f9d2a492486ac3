"""Doors to what is not ours: text detectors and the like."""
