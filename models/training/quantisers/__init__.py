"""Simulated quantisers: a frozen config and a module each, which know no architecture."""
