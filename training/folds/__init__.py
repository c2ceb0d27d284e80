"""Five folds of patients that are alike, the same for all data sets."""
