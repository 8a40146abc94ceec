"""The page in a process of its own, whose steps can be counted and slowed down: `slow_page.py BUNDLE PORT FOLDER`.

In FOLDER, `calls` grows by a byte with every forward call, while `slow` exists each call takes 25 ms, and `fail` makes
the next one fail.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from app.models import Models
from app.page import build_page
from app.server import launch
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession


def main(bundle_folder: str, port: str, folder: Path) -> None:
    forward = DecoderSession.forward

    def counted(*args, **kwargs):
        with (folder / "calls").open("ab") as calls:
            calls.write(b".")
        if (folder / "fail").exists():
            (folder / "fail").unlink()
            raise RuntimeError("a fault of ours")
        if (folder / "slow").exists():
            time.sleep(0.025)
        return forward(*args, **kwargs)

    DecoderSession.forward = counted
    # No end-of-text ids: random weights would end a text anywhere.
    models = Models(replace(Bundle.open(bundle_folder), eos_token_ids=frozenset()), threads=1)
    launch(build_page(models, name="tiny", precision="int8"), host="127.0.0.1", port=int(port))
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
