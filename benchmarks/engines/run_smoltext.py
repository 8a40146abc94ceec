"""Our own runtime: MODEL is a bundle, the argument a precision."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from protocol import serve

from runtime import Bundle, DecoderSession, generate_step

bundle = Bundle.open(sys.argv[1])
precision = sys.argv[3] if len(sys.argv) > 3 else bundle.default_precision
session = DecoderSession(bundle, precision, threads=int(sys.argv[2]))


def generate(prompt, count, on_token):
    """Greedily."""
    for _ in generate_step(session, prompt, max_new_tokens=count, stop_token_ids=()):
        on_token()


serve(generate)
