"""A stand-in for the Hugging Face Hub on this machine, with repositories in memory."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse


class Hub:
    """Repositories by name, and the requests that were made.

    Attributes:
      repositories: `{name: {"private": bool, "commits": [{path: content}]}}`.
      requests: method and path of each request, in order.
      failing: part of a path whose requests are answered by an error.
    """

    def __init__(self):
        self.repositories, self.requests, self.failing = {}, [], None


@contextlib.contextmanager
def running(monkeypatch, cache):
    """Starts a hub and points huggingface_hub to it, with `cache` as its cache; yields the hub."""
    from huggingface_hub import constants

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing and self.hub.failing in path:
            return self._send(500, {"error": "the disk of the hub is full"})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.repositories[name] = {"private": private, "commits": [{}]}
            return self._send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        kind, *parts = path.strip("/").split("/")
        if kind == "api":
            name, (action, *rest) = "/".join(parts[1:3]), parts[3:] or ("",)
        else:
            name, (action, *rest) = f"{kind}/{parts[0]}", parts[1:] or ("",)
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")
        return getattr(self, f"_{action or 'info'}")(repository, rest, body)

    def _info(self, repository, rest, body):
        files = repository["commits"][-1]
        siblings = [{"rfilename": path} for path in files]
        self._send(200, {"id": "a/b", "sha": _sha(repository), "siblings": siblings})

    _revision = _info

    def _tree(self, repository, rest, body):
        files = repository["commits"][-1]
        self._send(200, [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ])  # fmt: skip

    def _preupload(self, repository, rest, body):
        files = json.loads(body)["files"]
        self._send(200, {"files": [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
        ]})  # fmt: skip

    def _commit(self, repository, rest, body):
        files = dict(repository["commits"][-1])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        repository["commits"].append(files)
        url = f"http://{self.headers['Host']}/a/b/commit/{_sha(repository)}"
        self._send(200, {"success": True, "commitOid": _sha(repository), "commitUrl": url})

    def _settings(self, repository, rest, body):
        asked = json.loads(body)
        repository["private"] = asked.get("private", asked.get("visibility") == "private")
        self._send(200, {})

    def _resolve(self, repository, rest, body):
        content = repository["commits"][-1].get("/".join(rest[1:]))
        if content is None:
            return self._send(404, {"error": "Entry not found"}, "EntryNotFound")
        self._send(200, content, commit=_sha(repository))

    def _send(self, status, content, code=None, commit=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{_oid(data)}"')
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _sha(repository) -> str:
    return _oid(str(len(repository["commits"])).encode())


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
