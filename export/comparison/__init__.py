"""Is the exported model the model? A checkpoint and the ONNX files of a bundle, side by side."""
