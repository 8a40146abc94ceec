"""Training: from text to a checkpoint folder. `python -m train --help` lists the commands."""
