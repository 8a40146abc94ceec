"""How well and how fast: perplexity, divergence, bench."""
