"""Heads on frozen towers: trained on features that were computed once."""
