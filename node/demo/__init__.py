"""A study painted by our own code, and the run that shows the node at work on it."""
