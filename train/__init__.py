"""Training: from text to a checkpoint folder. Knows `model`; knows no ONNX. `python -m train --help`."""
