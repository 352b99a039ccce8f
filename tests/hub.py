"""A stand-in of the Hub on this machine's loopback, enough for the real `huggingface_hub` client to keep datasets in.

It has repos with commits, trees, LFS and regular files, tokens with rights, and faults to order: `hub.fail("POST", "/commit/", 412)`.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

RIGHTS = {"hf_writer": "write", "hf_reader": "read", "hf_stranger": ""}  # what a token may do with private repos


@dataclass
class Commit:
    oid: str
    title: str
    tree: dict[str, tuple[bytes, bool]]  # path -> (content, whether in LFS)
    at: float = field(default_factory=time.time)


class Hub(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler=None):
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.lock = threading.RLock()
        self.repos: dict[str, list[Commit]] = {}
        self.private: dict[str, bool] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[tuple[str, str, object, dict]] = []
        self.seen: list[tuple[str, str]] = []
        self.tokens: set[str] = set()  # that anything was asked with
        self.counts = defaultdict(int)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo: str, private: bool = True) -> None:
        self.repos[repo], self.private[repo] = [], private
        self.commit(repo, {".gitattributes": (b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, repo: str, tree: dict, title: str) -> str:
        self.repos[repo].append(Commit(secrets.token_hex(20), title, tree))
        return self.repos[repo][-1].oid

    def head(self, repo: str) -> Commit:
        return self.repos[repo][-1]

    def fail(self, method: str, part: str, how, times: int = 1, **headers) -> None:
        """The next `times` requests of `method` whose path has `part`: a status, "cut" (no answer), "half" (of one) or "slow" (half a second late)."""
        self.faults += [(method, part, how, headers)] * times

    def fault(self, method: str, path: str):
        with self.lock:
            for i, (m, part, how, headers) in enumerate(self.faults):
                if m == method and part in path:
                    del self.faults[i]
                    return how, headers
        return None, {}

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


@contextmanager
def running(make=Hub):
    hub = make()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Refused(Exception):
    def __init__(self, status: int, code: str = "", text: str = ""):
        self.status, self.code, self.text = status, code, text


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_):
        """Silence."""

    def do(self):
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, path))
        self.server.tokens |= {self.headers[n].removeprefix("Bearer ") for n in ["Authorization"] if n in self.headers}
        how, headers = self.server.fault(self.command, path)
        if how == "cut":
            self.close_connection = True
            self.connection.close()
            return
        if how == "slow":
            time.sleep(0.5)
        try:
            if isinstance(how, int):
                raise Refused(how)
            with self.server.lock:
                status, out, more = self.route(unquote(path), body)
        except Refused as refused:
            status, out, more = refused.status, {"error": refused.text or "refused"}, {"X-Error-Code": refused.code, **headers}
        self.answer(status, out, more, half=how == "half")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do

    def answer(self, status: int, out, headers: dict, half: bool = False) -> None:
        content = out if isinstance(out, bytes) else json.dumps(out).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self.close_connection = True
            self.connection.close()

    def route(self, path: str, body: bytes):
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/repos/delete":
            return self.delete(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}, {}
        if path == "/api/whoami-v2":
            return self.whoami()
        if match := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            return self.put(match[1], body)
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                self.allow(match[1], write=self.command == "POST" and "paths-info" not in path)
                return method(self, *match.groups(), *([body] if self.command == "POST" else []))
        raise Refused(404, "", f"no route {self.command} {path}")

    def right(self) -> str:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in RIGHTS:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return RIGHTS[token]

    def allow(self, repo: str, write: bool) -> None:
        """As the Hub does: a private repo is not there for whoever may not see it."""
        right = self.right()
        if repo not in self.server.repos or (self.server.private[repo] and not right):
            raise Refused(404, "RepoNotFound", "Repository not found")
        if write and right != "write":
            raise Refused(403, "", "Forbidden: you need write access")

    def create(self, wanted: dict):
        if self.right() != "write":
            raise Refused(403, "", "You don't have the rights to create a dataset")
        repo = f"{wanted['organization']}/{wanted['name']}"
        out = {"url": f"{self.server.url}/datasets/{repo}", "name": repo, "id": repo}
        if repo in self.server.repos:
            return 409, out, {}
        self.server.create(repo, private=wanted.get("visibility") == "private" or wanted.get("private") is True)
        return 200, out, {}

    def delete(self, unwanted: dict):
        repo = f"{unwanted['organization']}/{unwanted['name']}"
        self.allow(repo, write=True)
        del self.server.repos[repo]
        return 200, {}, {}

    def whoami(self):
        self.server.counts["whoami"] += 1
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token.startswith("hf_oauth_"):
            raise Refused(401, "", "Invalid user token")
        return 200, {"type": "org" if token == "hf_oauth_org" else "user", "id": hashlib.sha256(token.encode()).hexdigest()[:24], "name": token.removeprefix("hf_oauth_")}, {}

    def at(self, repo: str, revision: str) -> Commit:
        commits = self.server.repos[repo]
        found = commits[-1] if revision == "main" else next((c for c in commits if c.oid == revision), None)
        if not found:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return found

    def info(self, repo: str, revision: str = "main"):
        commit = self.at(repo, revision or "main")
        siblings = [{"rfilename": p} for p in commit.tree]
        return 200, {"id": repo, "sha": commit.oid, "private": self.server.private[repo], "siblings": siblings, "tags": [], "downloads": 0}, {}

    def preupload(self, repo: str, revision: str, body: bytes):
        files = [f["path"] for f in json.loads(body)["files"]]
        return 200, {"files": [{"path": p, "uploadMode": "lfs" if p.endswith(".safetensors") else "regular", "shouldIgnore": False} for p in files]}, {}

    def batch(self, repo: str, body: bytes):
        objects = []
        for o in json.loads(body)["objects"]:
            url = f"{self.server.url}/lfs/{o['oid']}"
            todo = {"actions": {"upload": {"href": url}, "verify": {"href": f"{self.server.url}/lfs/{o['oid']}"}}}
            objects.append({**o, **({} if o["oid"] in self.server.lfs else todo)})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def put(self, oid: str, body: bytes):
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refused(400, "", "content does not match its oid")
            self.server.lfs[oid] = body
            self.server.counts["lfs"] += 1
        return (200 if oid in self.server.lfs else 404), {}, {}

    def make_commit(self, repo: str, revision: str, body: bytes):
        lines = [json.loads(line) for line in body.splitlines()]
        head, tree = self.server.head(repo), dict(self.server.head(repo).tree)
        parent = lines[0]["value"].get("parentCommit")
        if not parent:
            raise Refused(400, "", "this stand-in takes no commit without its parent")
        if parent != head.oid:
            raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                tree[path] = (base64.b64decode(value["content"]), False)
                self.server.counts["regular"] += 1
            elif line["key"] == "lfsFile":
                tree[path] = (self.server.lfs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if path not in tree:
                    raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
                del tree[path]
        oid = self.server.commit(repo, tree, lines[0]["value"]["summary"])
        return 200, {"commitOid": oid, "commitUrl": f"{self.server.url}/datasets/{repo}/commit/{oid}"}, {}

    def list_tree(self, repo: str, revision: str, folder: str | None = None):
        """Entries right below `folder`, or all of them, at most three on a page."""
        tree, prefix = self.at(repo, revision).tree, f"{folder}/" if folder else ""
        query = parse_qs(urlsplit(self.path).query)
        deep = query.get("recursive", ["false"])[0].lower() == "true"
        names = sorted({p[len(prefix) :] if deep else p[len(prefix) :].split("/")[0] for p in tree if p.startswith(prefix)})
        if not names and folder:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        start = int(query.get("cursor", ["0"])[0])
        out = [self.entry(prefix + n, tree) for n in names[start : start + 3]]
        more = f"&recursive={query['recursive'][0]}" if "recursive" in query else ""
        link = f'<{self.server.url}{urlsplit(self.path).path}?cursor={start + 3}{more}>; rel="next"'
        return 200, out, {"Link": link} if start + 3 < len(names) else {}

    def entry(self, path: str, tree: dict) -> dict:
        if path not in tree:
            return {"type": "directory", "path": path, "oid": "0" * 40}
        content, lfs = tree[path]
        about = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        return {**about, "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}} if lfs else about

    def commits(self, repo: str, revision: str):
        return 200, [{"id": c.oid, "title": c.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []} for c in reversed(self.server.repos[repo])], {}

    def resolve(self, repo: str, revision: str, path: str):
        commit = self.at(repo, revision)
        if path not in commit.tree:
            raise Refused(404, "EntryNotFound", "Entry not found")
        content, lfs = commit.tree[path]
        etag = (hashlib.sha256 if lfs else hashlib.sha1)(content).hexdigest()
        return 200, content, {"X-Repo-Commit": commit.oid, "ETag": f'"{etag}"'}


REPO = "([^/]+/[^/]+)"
ROUTES = {
    f"/api/(?:datasets|models)/{REPO}": Handler.info,
    f"/api/(?:datasets|models)/{REPO}/revision/([^/]+)": Handler.info,
    f"/api/(?:datasets|models)/{REPO}/preupload/([^/]+)": Handler.preupload,
    f"/(?:datasets/)?{REPO}.git/info/lfs/objects/batch": Handler.batch,
    f"/api/(?:datasets|models)/{REPO}/commit/([^/]+)": Handler.make_commit,
    f"/api/(?:datasets|models)/{REPO}/tree/([^/]+)": Handler.list_tree,
    f"/api/(?:datasets|models)/{REPO}/tree/([^/]+)/(.+)": Handler.list_tree,
    f"/api/(?:datasets|models)/{REPO}/commits/([^/]+)": Handler.commits,
    f"/(?:datasets/)?{REPO}/resolve/([^/]+)/(.+)": Handler.resolve,
}
