"""From trained networks to what the container runs: packed weights and a manifest."""
