"""The engine's side of `benchmarks/worker.py`. Runs in foreign environments: the standard library alone."""

import json
import os
import random
import resource
import sys
import time

# Ids that every vocabulary has and that are no special token. Which ones they are makes no difference to the work.
FIRST_ID, LAST_ID = 20, 300
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


def serve(generate):
    """Answer until the input ends.

    `generate(prompt_ids, count, on_token)` makes `count` tokens and calls `on_token()` when each is there; the first is
    the prefill's.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not be taken for an answer
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("peak"):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT
            print(json.dumps({"peak_bytes": peak}), file=answers, flush=True)
            continue
        prompt = [random.randrange(FIRST_ID, LAST_ID) for _ in range(message["prompt_tokens"])]
        stamps = []
        count = message["new_tokens"] + 1
        started = time.perf_counter()
        generate(prompt, count, lambda stamps=stamps: stamps.append(time.perf_counter()))
        if len(stamps) != count:
            raise SystemExit(f"the engine gave {len(stamps)} tokens, not {count}")
        seconds = {"prefill_seconds": stamps[0] - started, "decode_seconds": stamps[-1] - stamps[0]}
        print(json.dumps(seconds), file=answers, flush=True)
