"""What we answer: the Secondary Capture and its pages."""
