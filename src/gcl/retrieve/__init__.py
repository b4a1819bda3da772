"""Stage 6: every query ranks its pools, exactly."""
