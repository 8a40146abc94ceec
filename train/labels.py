"""What the batches and the loss agree on: the label of a position that does not count."""

from __future__ import annotations

IGNORE_INDEX = -100  # the default `ignore_index` of torch.nn.functional.cross_entropy
