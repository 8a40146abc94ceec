"""A Hub on 127.0.0.1: as much of its HTTP protocol as huggingface_hub uses to download, and to create and fill a model
repository. It keeps everything in memory, and can drop connections in the middle of a body.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"
# The real one decides by .gitattributes; by suffix is enough here.
LARGE = (".onnx", ".onnx_data", ".safetensors")
NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"

Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories, stored large files, what was asked, and which connections are still to be dropped.

    `drops` maps the end of a request's path, such as `model.onnx` or `/lfs/`, to how many such transfers are cut.
    """

    repos: dict[str, dict[str, Files]] = field(default_factory=dict)  # id -> branch -> files
    large_files: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content
    requests: list[tuple[str, str]] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)  # anyone may read about them, nobody has accepted the terms
    refused: set[str] = field(default_factory=set)  # to the token that there is
    licenses: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def head(self, repo: str, revision: str) -> tuple[str, Files]:
        """Commit and files of a branch, or of a commit; KeyError where there is none."""
        branches = self.repos[repo]
        for branch, files in branches.items():
            if revision in (branch, commit_of(files)):
                return commit_of(files), files
        raise KeyError(revision)

    def sent(self, method: str) -> list[str]:
        """Paths of the requests of this method so far."""
        return [path for asked, path in self.requests if asked == method]

    def takes_drop(self, path: str) -> bool:
        """Whether this transfer is one to cut; counts it."""
        for part, left in self.drops.items():
            if part in path and left > 0:
                self.drops[part] -= 1
                return True
        return False


def commit_of(files: Files) -> str:
    """A commit's id, from what is in it."""
    content = "".join(f"{name}:{blob_id(data)};" for name, data in sorted(files.items()))
    return hashlib.sha1(content.encode()).hexdigest()


def blob_id(data: bytes) -> str:
    """git's own hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub in a thread; `hub.url` is what HF_ENDPOINT should say."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# What the tests of a Hub ask of it, and of a command line that ran against it.


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def one_line(done) -> str:
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def completed(attempt):
    """A command that may fail once, in words, where a connection was cut, and then ends well."""
    done = attempt()
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        done = attempt()
    assert done.returncode == 0, done.stderr
    return done


def downloaded(hub) -> set[str]:
    return {path.partition("/resolve/")[2].partition("/")[2] for path in hub.sent("GET") if "/resolve/" in path}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._route("GET", {
            rf"/api/models/{NAME}(/revision/{REVISION})?": self._info,
            rf"/api/models/{NAME}/tree/{REVISION}(/(?P<folder>.+))?": self._tree,
            rf"/api/models/{NAME}/refs": self._refs,
            rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)": self._resolve,
        })  # fmt: skip

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        routes = {
            r"/api/repos/create": self._create,
            r"/api/validate-yaml": lambda _: self._json({"errors": [], "warnings": []}),
            rf"/api/models/{NAME}/branch/{REVISION}": self._branch,
            rf"/api/models/{NAME}/preupload/{REVISION}": self._preupload,
            rf"/{NAME}\.git/info/lfs/objects/batch": self._batch,
            rf"/api/models/{NAME}/commit/{REVISION}": self._commit,
        }
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.hub.requests.append(("POST", self.path))
            self._json({"error": "Invalid credentials"}, 401)
            return
        self._route("POST", routes)

    def do_PUT(self):
        self.hub.requests.append(("PUT", self.path))
        size = int(self.headers["Content-Length"])
        if self.hub.takes_drop(self.path):
            self.rfile.read(size // 2)
            self._hang_up()
            return
        data = self.rfile.read(size)
        assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
        self.hub.large_files[hashlib.sha256(data).hexdigest()] = data
        self._json({})

    def _route(self, method, routes):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        for pattern, answer in routes.items():
            if found := re.fullmatch(pattern, path):
                asked = found.groupdict()
                if not self._is_refused(asked.get("repo")):
                    answer(asked)
                return
        self._json({"error": f"no {method} {path} here"}, 404)

    def _is_refused(self, repo):
        """Whether a repository is not for whoever asks; sends the answer that the real Hub has for it."""
        token = self.headers.get("Authorization")
        is_known = token == f"Bearer {TOKEN}"
        answer = None
        if token is not None and not is_known:
            answer = 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        elif not is_known and (repo not in (None, *self.hub.repos) or repo in self.hub.private):
            answer = 401, {"X-Error-Message": "Invalid username or password."}
        elif repo not in (None, *self.hub.repos):
            answer = 404, {"X-Error-Code": "RepoNotFound"}
        elif repo in self.hub.refused:
            answer = 403, {"X-Error-Message": "Forbidden"}
        if answer is not None:
            self._json({"error": "refused"}, *answer)
        return answer is not None

    def _head(self, asked):
        """Commit and files that were asked for; None once the error is sent."""
        try:
            return self.hub.head(asked["repo"], asked.get("revision") or "main")
        except KeyError:
            self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None

    def _info(self, asked):
        if head := self._head(asked):
            commit, files = head
            repo = asked["repo"]
            info = {"id": repo, "modelId": repo, "sha": commit, "private": repo in self.hub.private, "tags": []}
            if repo in self.hub.licenses:
                info["cardData"] = {"license": self.hub.licenses[repo]}
            self._json(info | {"siblings": [{"rfilename": name} for name in files]})

    def _tree(self, asked):
        if head := self._head(asked):
            folder = f"{asked['folder']}/" if asked["folder"] else ""
            self._json([_entry(name, data) for name, data in head[1].items() if name.startswith(folder)])

    def _refs(self, asked):
        branches = self.hub.repos[asked["repo"]]
        named = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(files)}
            for name, files in branches.items()
        ]
        self._json({"branches": named, "converts": [], "tags": []})

    def _resolve(self, asked):
        if not (head := self._head(asked)):
            return
        commit, files = head
        if asked["repo"] in self.hub.gated:
            status = 401 if self.headers.get("Authorization") is None else 403
            self._json({"error": "gated"}, status, {"X-Error-Code": "GatedRepo"})
            return
        if asked["path"] not in files:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = files[asked["path"]]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(asked["path"], data)}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(data[start:], 206 if start else 200, headers)

    def _create(self, _):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repos:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409)
            return
        self.hub.repos[repo] = {"main": {".gitattributes": b"*.onnx filter=lfs"}}
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(repo)
        self._json({"url": f"{self.hub.url}/{repo}"})

    def _branch(self, asked):
        branches = self.hub.repos[asked["repo"]]
        if asked["revision"] in branches:
            self._json({"error": "Reference already exists"}, 409)
            return
        branches[asked["revision"]] = dict(branches["main"])
        self._json({})

    def _preupload(self, asked):
        _, files = self.hub.head(asked["repo"], asked["revision"])
        self._json({"files": [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": _etag(file["path"], files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(self.body)["files"]
        ]})  # fmt: skip

    def _batch(self, _):
        objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(self.body)["objects"]]
        for entry in objects:
            if entry["oid"] not in self.hub.large_files:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, asked):
        if self.hub.takes_drop(self.path):
            self._hang_up()
            return
        files = self.hub.repos[asked["repo"]][asked["revision"]]
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = commit_of(files)
        self._json({"commitUrl": f"{self.hub.url}/{asked['repo']}/commit/{commit}", "commitOid": commit})

    def _json(self, value, status=200, headers=None):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, data, status, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.takes_drop(self.path):
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        else:
            self.wfile.write(data)

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True


def _etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else blob_id(data)


def _entry(name: str, data: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
