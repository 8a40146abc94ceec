"""From logits to the next token: options, processors, constraints, samplers, log-probabilities."""
