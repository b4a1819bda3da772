"""What every room uses: commands, files, names, rows of YAML, arrays. It knows nothing of retrieval."""
