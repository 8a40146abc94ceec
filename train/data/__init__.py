"""From sources of text to batches of token rows."""
