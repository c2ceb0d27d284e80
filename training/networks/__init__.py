"""Training: what to train, with which trainer, in which order, on which machine."""
