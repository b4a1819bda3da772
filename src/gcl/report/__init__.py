"""Stage 8: scores become tables, figures and a page."""
