"""What each part of the method does to the twelve metrics."""
