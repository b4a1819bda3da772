"""Stage 3: a recipe and pairs become checkpoints."""
