"""Stage 5: images and texts become vectors, by onnxruntime alone."""
