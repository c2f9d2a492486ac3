"""Frame in, prediction out: packages, the classifier and the per-patient rule."""
