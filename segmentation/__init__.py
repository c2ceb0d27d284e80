"""The networks: organs by TotalSegmentator, nnU-Net members, sliding window, ensemble."""
