"""What keeps a run in time, in memory, on record and in service."""
