"""Everything that makes what the container runs on: phantoms, data sets, training, packing."""
