"""transformers.js in headless Chromium, on onnxruntime-web's WASM, from a server of this machine's own.

Called like the others (see answers.py), with the name of onnxruntime-web's WASM build after the paths. The packages
are in the folder that NODE_FOLDER names.
"""

import json
import os
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

MODULES = Path(os.environ["NODE_FOLDER"]) / "node_modules"
# Without a sandbox, because tests often run as root in a container; and without the browser's own errands.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCRIPT = """async ([job, model, build]) => {
  const transformers = await import('/transformers/transformers.min.js');
  const { answers } = await import('/programs/transformersjs.mjs');
  transformers.env.allowLocalModels = true;
  transformers.env.allowRemoteModels = false;
  transformers.env.localModelPath = '/models/';
  transformers.env.backends.onnx.wasm.wasmPaths = {
    mjs: `/onnxruntime/${build}.mjs`,
    wasm: `/onnxruntime/${build}.wasm`,
  };
  return await answers(transformers, job, model, { device: 'wasm' });
}"""
ONE_PRECISION_MILLISECONDS = 120_000


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    bundle = Path(job["bundle"])
    folders = {
        "transformers": MODULES / "@huggingface" / "transformers" / "dist",
        "onnxruntime": MODULES / "onnxruntime-web" / "dist",
        "programs": Path(__file__).parent,
        "models": bundle.parent,
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folders))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = _in_chromium(f"http://127.0.0.1:{server.server_port}/", job, bundle.name, sys.argv[3])
    server.shutdown()
    Path(sys.argv[2]).write_text(json.dumps(found))


def _in_chromium(url: str, job: dict, model: str, build: str) -> dict:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        found = {}
        for precision, file in job["files"].items():
            page = browser.new_page()  # a new one each: where one session fails, transformers.js starts no other
            page.set_default_timeout(ONE_PRECISION_MILLISECONDS)
            # Whatever asks for another host would make the result depend on it.
            page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(url) else route.abort())
            page.goto(url)
            found |= page.evaluate(SCRIPT, [job | {"files": {precision: file}}, model, build])
            page.close()
        return found


def _handler(folders: dict[str, Path]) -> type[SimpleHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        """The first part of a path names a folder; the root is an empty page."""

        def do_GET(self) -> None:
            if self.path == "/":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
            else:
                super().do_GET()

        def translate_path(self, path: str) -> str:
            first, _, rest = urlsplit(path).path.lstrip("/").partition("/")
            return str(folders.get(first, Path("/nowhere")) / rest)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


main()
