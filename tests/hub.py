"""A small Hub on 127.0.0.1: what huggingface_hub and git-lfs call to upload and fetch a model, with real checks.

It keeps repositories, commits, tags and large files in memory, believes no size or hash that it is told, and writes
down every request. `fail` makes a step answer what it is told to, or break the connection.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

LFS_BYTES = 10_000_000  # what a commit takes itself
PATTERNS = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.model filter=lfs diff=lfs merge=lfs -text\n"
MODEL, SPECIAL = r"/(?:api/models/)?(?P<repo>[\w.-]+/[\w.-]+?)", r"(?P<rev>[\w.%-]+)"
STEPS = (  # name, method, path
    ("create", "POST", "/api/repos/create"),
    ("card", "POST", "/api/validate-yaml"),
    ("user", "GET", "/api/whoami-v2"),
    ("modes", "POST", rf"{MODEL}/preupload/{SPECIAL}"),
    ("commit", "POST", rf"{MODEL}/commit/{SPECIAL}"),
    ("tag", "POST", rf"{MODEL}/tag/{SPECIAL}"),
    ("refs", "GET", rf"{MODEL}/refs"),
    ("tree", "GET", rf"{MODEL}/tree/{SPECIAL}(?P<path>/.*)?"),
    ("info", "GET", rf"/api/models/(?P<repo>[\w.-]+/[\w.-]+)(/revision/{SPECIAL})?"),
    ("batch", "POST", rf"{MODEL}\.git/info/lfs/objects/batch"),
    ("verify", "POST", rf"{MODEL}\.git/info/lfs/objects/verify"),
    ("upload", "PUT", rf"{MODEL}\.git/lfs/(?P<oid>\w+)(/(?P<part>\d+))?"),
    ("complete", "POST", rf"{MODEL}\.git/lfs/(?P<oid>\w+)/complete"),
    ("resolve", "GET|HEAD", rf"{MODEL}/resolve/{SPECIAL}/(?P<path>.+)"),
)
JSON = {"Content-Type": "application/json"}
HANG, BREAK, LOSE = "hang", "break", "lose"  # no answer, the connection broken within the request, or behind the work


class Refused(Exception):
    """An answer that is none of success."""

    def __init__(self, status: int, message: str, more: dict | None = None, **headers: str):
        self.status, self.body, self.headers = status, {"error": message} | (more or {}), headers


@dataclasses.dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def in_git(self) -> bytes:
        """What git has of it: for a large file its pointer."""
        if not self.lfs:
            return self.content
        lines = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return lines.encode()

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.in_git) + self.in_git).hexdigest()

    def entry(self, path: str) -> dict:
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.in_git)}
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return entry | ({"lfs": large} if self.lfs else {})


@dataclasses.dataclass(frozen=True)
class Commit:
    title: str
    description: str
    files: dict[str, Blob]
    parent: str | None = None

    @property
    def oid(self) -> str:
        tree = sorted((path, blob.oid) for path, blob in self.files.items())
        return hashlib.sha1(json.dumps([self.parent, self.title, self.description, tree]).encode()).hexdigest()


class Repository:
    def __init__(self, private: bool):
        self.private, self.commits, self.tags = private, {}, {}
        self.large: dict[str, bytes] = {}  # by sha256, uploaded and perhaps not in a commit yet
        self.parts: dict[tuple[str, int], bytes] = {}
        self.commit(Commit("initial commit", "", {".gitattributes": Blob(PATTERNS, False)}))

    def commit(self, commit: Commit) -> str:
        self.head = commit.oid
        self.commits[self.head] = commit
        return self.head

    def add(self, **files: bytes) -> None:
        """A commit that somebody else makes, of small files; _ in a name stands for a dot."""
        added = {name.replace("_", "."): Blob(content, False) for name, content in files.items()}
        self.commit(Commit("by hand", "", self.commits[self.head].files | added, self.head))

    def find(self, revision: str) -> str:
        found = {"main": self.head, **self.tags, **{oid: oid for oid in self.commits}}.get(revision)
        if found is None:
            raise Refused(404, "Invalid rev id", **{"X-Error-Code": "RevisionNotFound"})
        return found

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits, the newest first."""
        oid, commits = self.find(revision), []
        while oid is not None:
            commits.append(self.commits[oid])
            oid = commits[-1].parent
        return commits


class Hub:
    """The server's state; `url` is its HF_ENDPOINT."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, dict] = {}  # by token: {"name": "taro", "role": "write"}
        self.requests: list[tuple[str, str]] = []  # (step, path) of each
        self.failures: dict[str, list] = {}
        self.part_bytes: int | None = None  # where it is, larger files come in parts of so many bytes
        self.stopping, self.lock = threading.Event(), threading.RLock()
        self.url = ""

    def fail(self, step: str, how, times: int = 10_000, body: str = '{"error": "planted"}') -> None:
        """Answer `step` with a status, so many times; {token} in `body` is the one that was sent.

        HANG, BREAK or LOSE gives no answer; a function is called before the work is done.
        """
        self.failures[step] = [how, times, body]

    def heal(self) -> None:
        self.failures.clear()
        self.requests.clear()

    def steps(self) -> list[str]:
        """The names of the requests so far."""
        return [step for step, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves whole: in two parts the second waits for 40 ms
    hub: Hub

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        step, found = next(
            (
                (step, match)
                for step, methods, pattern in STEPS
                if self.command in methods.split("|") and (match := re.fullmatch(pattern, path))
            ),
            ("unknown", None),
        )
        self.hub.requests.append((step, self.path))
        how, times, body = self.hub.failures.get(step, (None, 0, ""))
        if times > 0:
            self.hub.failures[step][1] -= 1
        else:
            how = None
        if how == HANG:
            self.hub.stopping.wait(60)
        if how in (HANG, BREAK):
            self.rfile.read(min(1000, int(self.headers.get("Content-Length", 0)) // 2))
            return self.hang_up()
        self.body = self.read_body()
        try:
            if isinstance(how, int):
                sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
                return self.answer(how, body.replace("{token}", sent).encode(), JSON)
            if found is None:
                raise Refused(404, "Not Found", **{"X-Error-Code": "EntryNotFound"})
            if callable(how):
                how()
            with self.hub.lock:
                result = getattr(self, step)(**{name: part for name, part in found.groupdict().items() if part})
        except Refused as refusal:
            return self.answer(refusal.status, json.dumps(refusal.body).encode(), JSON | refusal.headers)
        if how == LOSE:
            return self.hang_up()
        content, headers = result if isinstance(result, tuple) else (json.dumps(result).encode(), {})
        self.answer(200, content, JSON | headers)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        blocks = []
        while size := int(self.rfile.readline(), 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def answer(self, status: int, content: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    # Who may do what

    def known(self) -> dict | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def readable(self, repo: str) -> Repository:
        user, found = self.known(), self.hub.repositories.get(repo)
        if found is None or (found.private and (user is None or user["name"] != repo.split("/")[0])):
            status = 401 if user is None else 404
            raise Refused(status, "Repository not found", **{"X-Error-Code": "RepoNotFound"})
        return found

    def require_writer(self, account: str) -> None:
        user = self.known()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if user["role"] != "write" or user["name"] != account:
            raise Refused(403, f"You don't have the rights to create a model under the namespace {account}")

    def writable(self, repo: str) -> Repository:
        found = self.readable(repo)
        self.require_writer(repo.split("/")[0])
        return found

    # The steps

    def user(self) -> dict:
        if self.known() is None:
            raise Refused(401, "Invalid username or password.")
        return {"type": "user", **self.known()}

    def create(self) -> dict:
        asked = json.loads(self.body)
        account = asked.get("organization") or (self.known() or {}).get("name")
        self.require_writer(account)
        repo = f"{account}/{asked['name']}"
        created = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            raise Refused(409, "You already created this model repo", created)
        self.hub.repositories[repo] = Repository(asked.get("visibility") == "private" or asked.get("private") is True)
        return created

    def card(self) -> dict:
        content = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            data = yaml.safe_load(front[1]) if front else None
        except yaml.YAMLError:
            data = None
        if not isinstance(data, dict) or not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license"))):
            wrong = [{"message": '"license" must be one of a list'}]
            raise Refused(400, "", {"errors": wrong, "warnings": []})
        return {"errors": [], "warnings": []}

    def modes(self, repo: str, rev: str) -> dict:
        repository = self.writable(repo)
        there = repository.commits[repository.find(rev)].files
        patterns = [line.split()[0] for line in there[".gitattributes"].content.decode().splitlines()]
        modes = []
        for file in json.loads(self.body)["files"]:
            path, blob = file["path"], there.get(file["path"])
            large = any(fnmatch(path, pattern) for pattern in patterns) or file["size"] >= LFS_BYTES
            large = large or b"\0" in base64.b64decode(file["sample"])
            oid = None if blob is None else blob.sha256 if blob.lfs else blob.oid
            modes.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        return {"files": modes}

    def batch(self, repo: str) -> dict:
        repository, asked = self.writable(repo), json.loads(self.body)
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        objects = []
        for file in asked["objects"]:
            if len(repository.large.get(file["oid"], b"")) == file["size"]:
                objects.append(file)
                continue
            base = f"{self.hub.url}/{repo}.git"
            upload = {"href": f"{base}/lfs/{file['oid']}?signature=signed-for-this-upload"}
            size = self.hub.part_bytes
            if size is not None and file["size"] > size:
                parts = range(1, -(-file["size"] // size) + 1)
                header = {str(part): f"{base}/lfs/{file['oid']}/{part}" for part in parts} | {"chunk_size": str(size)}
                upload = {"href": f"{base}/lfs/{file['oid']}/complete", "header": header}
            actions = {"upload": upload, "verify": {"href": f"{base}/info/lfs/objects/verify"}}
            objects.append(file | {"authenticated": True, "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def keep(self, repository: Repository, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "the content does not have this sha256")
        repository.large[oid] = content

    def upload(self, repo: str, oid: str, part: str | None = None) -> tuple:
        repository = self.hub.repositories[repo]  # its address is signed, a token is not sent along
        assert self.headers.get("Authorization") is None
        if part is not None:
            repository.parts[oid, int(part)] = self.body
            return b"", {"ETag": f'"{hashlib.sha1(self.body).hexdigest()}"'}
        self.keep(repository, oid, self.body)
        return b"", {}

    def complete(self, repo: str, oid: str) -> dict:
        repository, asked = self.hub.repositories[repo], json.loads(self.body)
        assert asked["oid"] == oid
        parts = [repository.parts[oid, part["partNumber"]] for part in asked["parts"]]
        assert [f'"{hashlib.sha1(part).hexdigest()}"' for part in parts] == [part["etag"] for part in asked["parts"]]
        self.keep(repository, oid, b"".join(parts))
        return {}

    def verify(self, repo: str) -> dict:
        repository, asked = self.writable(repo), json.loads(self.body)
        if len(repository.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        return {}

    def commit(self, repo: str, rev: str) -> dict:
        repository = self.writable(repo)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines.pop(0)["value"]
        if header.get("parentCommit", repository.head) != repository.head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        content = dict(repository.commits[repository.find(rev)].files)
        for line in lines:
            value = line["value"]
            path = value["path"]
            if line["key"] == "deletedFile":
                del content[path]
            elif line["key"] == "lfsFile":
                if len(repository.large.get(value["oid"], b"")) != value["size"]:
                    raise Refused(400, f"{path} points to a file that was not uploaded")
                content[path] = Blob(repository.large[value["oid"]], True)
            else:
                blob = Blob(base64.b64decode(value["content"]), False)
                if len(blob.content) >= LFS_BYTES or b"\0" in blob.content:
                    raise Refused(400, f"{path} is large or binary and has to be uploaded by way of LFS")
                content[path] = blob
        oid = repository.commit(Commit(header["summary"], header["description"], content, repository.head))
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}

    def tag(self, repo: str, rev: str) -> dict:
        repository, tag = self.writable(repo), json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise Refused(409, "Tag reference exists already")
        repository.tags[tag] = repository.find(urllib.parse.unquote(rev))
        return {}

    def refs(self, repo: str) -> dict:
        repository = self.readable(repo)
        tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": oid} for t, oid in repository.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
        return {"branches": [main], "converts": [], "tags": tags}

    def info(self, repo: str, rev: str = "main") -> dict:
        repository = self.readable(repo)
        oid = repository.find(urllib.parse.unquote(rev))
        siblings = [{"rfilename": path} for path in repository.commits[oid].files]
        facts = {"id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": oid, "siblings": siblings}
        return facts | {"private": repository.private, "tags": [], "downloads": 0, "likes": 0}

    def tree(self, repo: str, rev: str, path: str = "") -> list:
        repository = self.readable(repo)
        files = repository.commits[repository.find(urllib.parse.unquote(rev))].files
        if path.strip("/"):  # all files lie in the first folder
            raise Refused(404, "no such folder", **{"X-Error-Code": "EntryNotFound"})
        return [blob.entry(name) for name, blob in files.items()]

    def resolve(self, repo: str, rev: str, path: str) -> tuple:
        repository = self.readable(repo)
        oid = repository.find(urllib.parse.unquote(rev))
        blob = repository.commits[oid].files.get(urllib.parse.unquote(path))
        if blob is None:
            raise Refused(404, "Entry not found", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.oid}"', "Content-Type": "application/octet-stream"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        return blob.content, headers


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A Hub that serves until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
