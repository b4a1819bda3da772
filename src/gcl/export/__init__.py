"""Stage 4: checkpoints become ONNX graphs that are checked against torch."""
