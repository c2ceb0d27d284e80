"""From probabilities to the final masks, on the PET's grid: threshold, regrow, refine FDG by PSMA."""
