"""nnU-Net data sets out of a folder of patients: checking, writing, folds, plans."""
