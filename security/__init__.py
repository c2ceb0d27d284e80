"""What keeps others' code that we install known: locks with digests, bills of materials, audits, scans of the image."""
