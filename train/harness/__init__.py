"""Evaluation of checkpoints and bundles by lm-evaluation-harness, with small tasks of our own."""
