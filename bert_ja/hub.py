"""The Hub: what of a release goes there, and how. `push` is the one place that opens a connection beside downloads.

A push is one commit with a tag, made with huggingface_hub by way of git-lfs (without Xet, see cli.py). What fails is
said in one sentence that holds nothing of the token; the same command can then be run again, and sends the rest.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from bert_ja import files
from bert_ja.cli import StageError, require, say

NAME = re.compile(r"(?!.*(--|\.\.))(?![-.])[A-Za-z0-9._-]{1,96}(?<![-.])(?<!\.git)", re.ASCII)
TAG = re.compile(r"(?!(main|HEAD)$)(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.)(?<!\.lock)", re.ASCII)
# Of the Hub's own .gitattributes, what a release may hold, and pictures: git takes no binary file there.
LFS_PATTERNS = ("*.bin", "*.h5", "*.model", "*.msgpack", "*.onnx", "*.onnx.data", "*.onnx_data", "*.png")
LFS_PATTERNS += ("*.safetensors",)
LFS_BYTES = 10_000_000  # from here on the Hub takes no file through git
BINARY_BYTES = 8000  # in which git looks for a zero byte
TIMEOUT = 120  # seconds without an answer
TOKEN_BYTES = 8  # of the token; a text that holds so many in a row is not shown
WORDS = 200  # characters of what the Hub says
STAGE, GLOB = "release_model.py", set("*?[")
ATTRIBUTES, CARD, CHANGELOG = ".gitattributes", "README.md", "CHANGELOG.md"
LOGIN = "run `hf auth login`, or set HF_TOKEN to a token with write permission (https://huggingface.co/settings/tokens)"
AGAIN = "run the same command again, what is on the Hub already is not sent twice"


# Before the work


def check(repo: str | None, push: bool, public: bool, tag: str) -> None:
    """Refuse what the Hub would refuse, before anything is made."""
    parts = (repo or "").split("/")
    require(
        {
            f"--repo must be ACCOUNT/NAME on the Hub, each as --name has to be, got {repo!r}": repo is None
            or (len(parts) == 2 and all(NAME.fullmatch(part) for part in parts)),
            "--push and --public need --repo ACCOUNT/NAME": repo is not None or not (push or public),
            f"--tag must be a version such as v1.0 (letters, digits, -, _ and .), got {tag!r}": TAG.fullmatch(tag)
            is not None,
        }
    )


def require_token(repo: str) -> str:
    """The token of the environment or of the login file, as huggingface_hub finds it."""
    import huggingface_hub

    with _online(), _one_sentence(repo, ""):
        token = huggingface_hub.get_token()
    if token is None:
        raise StageError(f"no token of the Hub was found: {LOGIN}")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise StageError(f"the token of the Hub holds characters that no token has: {LOGIN}")
    return token


def _entry(changelog: str, tag: str) -> str | None:
    for part in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if tag in re.split(r"[^\w.-]+", heading):
            return text.strip()
    return None


def entry(changelog: str, tag: str) -> str:
    """The text of a changelog under the heading that names a version: ("## v1.0\\n\\n- First\\n", "v1.0") -> "- First".

    Raises StageError where none does.
    """
    if (text := _entry(changelog, tag)) is None:
        raise StageError(
            f"{CHANGELOG} has no entry for {tag}: write one (## {tag}, and what is new) and pass it with --changelog, "
            "or name the version of an entry with --tag"
        )
    return text


# What goes up


def _needs_lfs(path: Path) -> bool:
    """Whether the Hub refuses a file as part of a git commit: it is large, or binary by git's own rule."""
    with open(path, "rb") as file:
        return path.stat().st_size >= LFS_BYTES or b"\0" in file.read(BINARY_BYTES)


def gitattributes(folder: Path) -> bytes:
    """The .gitattributes of a release: what git hands over to git-lfs."""
    names = [name for name in files.names_in(folder) if _needs_lfs(folder / name)]
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in LFS_PATTERNS)]
    return "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in (*LFS_PATTERNS, *others)).encode()


def endpoint() -> str:
    """https://huggingface.co, or what HF_ENDPOINT says."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def address(repo: str) -> str:
    """Where people find a repository: https://huggingface.co/taro/bert-base-ja."""
    return f"{endpoint()}/{repo}"


def plan(folder: Path, repo: str, tag: str, public: bool) -> str:
    """What a push would send: files with sizes in bytes, where they go, and the card."""
    sizes = {name: (folder / name).stat().st_size for name in files.names_in(folder)}
    patterns = [line.split()[0] for line in (folder / ATTRIBUTES).read_text().splitlines()]
    rows = [
        f"{size:>15,}  {'lfs' if any(fnmatch(name, pattern) for pattern in patterns) else 'git'}  {name}"
        for name, size in sizes.items()
    ]
    return "\n".join(
        [
            f"{folder} -> {address(repo)} ({'public' if public else 'private'}, tag {tag})",
            f"{'bytes':>15}  by   file",
            *rows,
            f"{sum(sizes.values()):>15,}       {len(sizes)} files",
            "",
            f"{CARD}:",
            "",
            (folder / CARD).read_text(encoding="utf-8"),
        ]
    )


# Connections and their failures


class _Talk(logging.Handler):
    """Says that the client tries again. What else it logs holds addresses that are signed for this upload."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("Retrying in", "Rate limited")):
            say(f"the Hub does not answer as it should. {text}")


def _client():
    """A client that may connect, which the stages do without (cli.py), and that waits TIMEOUT for whatever it asks."""
    import httpx2

    def limit(request) -> None:  # huggingface_hub asks some things without any
        request.extensions["timeout"] = httpx2.Timeout(TIMEOUT).as_dict()

    return httpx2.Client(follow_redirects=True, event_hooks={"request": [limit]})


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """Give huggingface_hub a connection, and keep its logs and warnings, which may quote the server, to ourselves."""
    import huggingface_hub
    from huggingface_hub.utils._http import default_client_factory

    log = logging.getLogger("huggingface_hub")
    handlers, log.handlers = log.handlers, [_Talk()]
    huggingface_hub.set_client_factory(_client)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        huggingface_hub.set_client_factory(default_client_factory)
        log.handlers = handlers


def _words(text: str | None, token: str) -> str:
    """What the Hub or the client says, on one line behind a colon; nothing where a part of the token stands in it.

    Nothing either where the token is not known, "".
    """
    text = " ".join((text or "").split())
    parts = [token[start : start + TOKEN_BYTES].lower() for start in range(max(1, len(token) - TOKEN_BYTES + 1))]
    return f": {text[:WORDS]}" if text and not any(part in text.lower() for part in parts) else ""


def _refusal(status: int, words: str, repo: str) -> str:
    """What an answer of the Hub means, and what to do."""
    account = repo.partition("/")[0]
    meanings = {
        401: f"the Hub does not accept the token (401), it is wrong or has expired: {LOGIN}; HF_TOKEN goes first",
        403: f"the token may not write to {repo} (403{words}): take one with write permission for {account}, or name "
        "your own account in --repo",
        404: f"the Hub knows no {repo} that this token may see (404): check --repo, and whose token it is",
        429: f"the Hub asks to wait (429): later {AGAIN}",
        **dict.fromkeys((409, 412), f"{repo} was changed by somebody else meanwhile ({status}): look at "
        f"{address(repo)} and run the same command again"),
    }  # fmt: skip
    if status >= 500:
        return f"the Hub failed ({status}): later {AGAIN}"
    return meanings.get(status) or f"the Hub refused {repo} ({status}{words}): mend that and {AGAIN}"


def _sentence(error: BaseException, repo: str, token: str) -> str:
    """One sentence for what the client raised, from the answer or the broken connection behind it."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror} ({error.filename}): check the path and its permissions"
    cause = error
    while cause is not None and not isinstance(cause, HfHubHTTPError | httpx2.TransportError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, HfHubHTTPError):
        return _refusal(cause.response.status_code, _words(cause.server_message, token), repo)
    if isinstance(cause, httpx2.TransportError):
        return f"the connection to {address(repo)} broke ({type(cause).__name__}): {AGAIN}"
    words = _words(f"{type(error).__name__}, {error}", token) or f": {type(error).__name__}"
    return f"the Hub or its answer is not as it should be{words}: later {AGAIN}"


@contextlib.contextmanager
def _one_sentence(repo: str, token: str) -> Iterator[None]:
    """Raise all that the client raises as a StageError; a traceback could quote the server, and so the token."""
    try:
        yield
    except (StageError, MemoryError):
        raise
    except Exception as error:
        raise StageError(_sentence(error, repo, token)) from None


# The push


def _is_same(path: Path, remote) -> bool:
    """Whether a file is the one of the Hub (a RepoFile), by the hash that the Hub has of it."""
    if remote is None or remote.size != path.stat().st_size:
        return False
    if remote.lfs is not None:
        return files.sha256(path) == remote.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id


def _tree(api, repo: str, commit: str) -> dict:
    """The files of a commit, by path."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, revision=commit, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _differing(folder: Path, tree: dict) -> list[str]:
    """The files of the release that the Hub lacks or has otherwise."""
    return [name for name in files.names_in(folder) if not _is_same(folder / name, tree.get(name))]


def _left_over(api, repo: str, commit: str, tree: dict, folder: Path) -> list[str]:
    """Files of an earlier release, by its record on the Hub, that this one has no more."""
    others = sorted(set(tree) - set(files.names_in(folder)) - {ATTRIBUTES})
    if not others:
        return []
    ours = []
    if "meta.json" in tree:
        with tempfile.TemporaryDirectory() as place, contextlib.suppress(StageError):
            api.hf_hub_download(repo, "meta.json", revision=commit, local_dir=place)
            record = files.read_record(place) or {}
            named = record.get("outputs", []) if record.get("stage") == STAGE else []
            ours = [file["name"] for file in named if not set(file["name"]) & GLOB]  # they go into delete_patterns
    for name in others:
        said = "is of an earlier release: taken away" if name in ours else "is of no release: it stays"
        say(f"{name} of {repo} {said}")
    return [name for name in others if name in ours]


def _require_visibility(repo: str, private: bool, public: bool) -> None:
    """Refuse a repository that has been there and is not what --public says: nobody is to be surprised."""
    if public and private:
        raise StageError(
            f"{repo} exists and is private: leave --public out, and make it public in its settings on the Hub"
        )
    if not (public or private):
        raise StageError(
            f"{repo} exists and is public: pass --public True, or make it private in its settings on the Hub"
        )


def _require_history(folder: Path, repo: str, tag: str, tags: list[str]) -> None:
    """Refuse a changelog that forgets what was released before, such as the one that is written for a first release."""
    changelog = (folder / CHANGELOG).read_text(encoding="utf-8")
    earlier = [name for name in tags if name != tag]
    if earlier and not any(_entry(changelog, name) is not None for name in earlier):
        raise StageError(
            f"{CHANGELOG} does not name {earlier[-1]}, which {repo} has: write the entry for {tag} into the changelog "
            "there, and pass it with --changelog"
        )


def _require_same(folder: Path, repo: str, tag: str, tree: dict) -> None:
    if differing := _differing(folder, tree):
        raise StageError(
            f"{tag} of {repo} is another release, its {differing[0]} is not this one's: give this one a version of its "
            f"own with --tag, and an entry for it in a text for --changelog"
        )


def _commit(api, folder: Path, repo: str, head: str, message: str, description: str) -> str:
    """Upload what the Hub lacks, in one commit on `head`; its id. Raises StageError if another commit came between."""
    commit = api.upload_folder(
        repo_id=repo,
        folder_path=folder,
        delete_patterns=_left_over(api, repo, head, _tree(api, repo, head), folder) or None,
        commit_message=message,
        commit_description=description,
        parent_commit=head,
    ).oid
    if _differing(folder, _tree(api, repo, commit)):
        raise StageError(_refusal(409, "", repo))
    return commit


def push(folder: Path, repo: str, tag: str, public: bool, token: str) -> str:
    """Upload a release as one commit and tag it; the address of that version.

    A repository, files and a tag that are there already and the same stay as they are. Raises StageError in one
    sentence for whatever fails, and where the tag belongs to another release.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    news = entry((folder / CHANGELOG).read_text(encoding="utf-8"), tag)
    with _online(), _one_sentence(repo, token):
        api = huggingface_hub.HfApi(endpoint=endpoint(), token=token)
        api.create_repo(repo, private=not public, exist_ok=True)
        info = api.model_info(repo)
        _require_visibility(repo, info.private, public)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags}
        _require_history(folder, repo, tag, sorted(tags))
        if tag in tags:
            _require_same(folder, repo, tag, _tree(api, repo, tags[tag]))
            say(f"{repo} has this release already, as {tag}: nothing to upload")
        else:
            commit = _commit(api, folder, repo, info.sha, f"{folder.name} {tag}", news)
            api.create_tag(repo, tag=tag, revision=commit)
            say(f"uploaded to {repo} ({'public' if public else 'private'}), commit {commit[:12]}, tag {tag}")
    return f"{address(repo)}/tree/{tag}"
