"""From a checkpoint to a bundle of ONNX files, and the comparison of the two. Knows model and runtime."""
