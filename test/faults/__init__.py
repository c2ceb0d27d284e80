"""Faults that strike while the program runs, on this machine and in the container; run by test/run_faults.sh."""
