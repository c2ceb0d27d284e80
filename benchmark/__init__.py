"""What the method costs: the reference way beside our modes, on the same cases, in cold processes."""
