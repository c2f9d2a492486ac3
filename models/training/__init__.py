"""Training of networks; the only place that may import torch. Needs the extra `train`."""
