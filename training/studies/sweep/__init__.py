"""Scores over the limits on P(ttb) and P(normal)."""
