"""From token ids and a cache to logits: sessions over onnxruntime, KV caches, the scheduler."""
