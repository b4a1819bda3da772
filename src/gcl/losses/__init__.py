"""The family of contrastive losses, usable alone: torch and nothing else."""
