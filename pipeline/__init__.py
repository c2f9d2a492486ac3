"""Frame in, clean frame out."""
