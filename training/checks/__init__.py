"""What is wrong with a patient's files, before anything is trained on them."""
