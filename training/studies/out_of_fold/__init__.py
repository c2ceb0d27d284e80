"""Every training patient predicted by the networks that have not seen him."""
