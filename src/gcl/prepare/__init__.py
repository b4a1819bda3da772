"""Stage 2: a data set's files become canonical tables."""
