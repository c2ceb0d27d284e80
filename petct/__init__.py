"""What a case is, and how it gets in and out: geometry, scans, sockets, folders, organ names, channels, manifest."""
