"""Stage 7: a run becomes measures."""
