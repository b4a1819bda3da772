"""Weights: of the public files, of our checkpoints, and what is said of them."""
