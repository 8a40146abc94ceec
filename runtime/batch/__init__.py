"""Files of prompts: read (`reading.py`), generate (`worker.py`), write (`output.py`), each without the others."""
