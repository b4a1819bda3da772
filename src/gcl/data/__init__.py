"""Images, texts, items, pairs and benchmarks as they lie on disk."""
