"""Publishing with the real client, against a Hub of our own on 127.0.0.1 (hub.py)."""

import inspect
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hub as server
import pytest
from conftest import ROOT, refusal, stage

from bert_ja import files, hub
from bert_ja.cli import StageError

TOKEN = "hf_CanaryOfTheTokenThatNobodyMaySee"
READ_ONLY = "hf_AnotherCanaryThatMayOnlyRead0000"
REPO = "taro/bert-tiny-ja"
CARD = "---\nlanguage: ja\nlicense: cc-by-sa-4.0\n---\n\n# bert-tiny-ja\n"
NEWS = "# Changelog of bert-tiny-ja\n\n## v1.1\n\n- Better\n\n## v1.0\n\n- First release: 2 layers\n- Not evaluated\n"
CONTENT = {
    "model.safetensors": bytes(range(256)) * 400,
    "spm.model": b"\x00\x01pieces" * 50,
    "config.json": b'{"vocab_size": 40}\n',
    "tokenizer.json": '{"東京": 5}\n'.encode(),
    "README.md": CARD.encode(),
    "CHANGELOG.md": NEWS.encode(),
}
LARGE = ["model.safetensors", "spm.model"]
USED = ["create", "info", "refs", "tree", "card", "modes", "batch", "upload", "verify", "commit", "tag"]  # steps


def write_release(folder: Path, **changes: bytes) -> Path:
    """A release folder with its record; _ in a name of `changes` stands for a dot."""
    folder.mkdir(parents=True)
    for name, content in (CONTENT | {name.replace("_", "."): content for name, content in changes.items()}).items():
        (folder / name).write_bytes(content)
    (folder / ".gitattributes").write_bytes(hub.gitattributes(folder))
    files.write_record(folder, {"stage": "release_model.py", "outputs": files.describe_folder(folder)})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small(tmp_path) -> Path:
    """A release whose weights are none."""
    return write_release(tmp_path / "release" / "bert-tiny-ja")


@pytest.fixture
def remote(monkeypatch):
    """The Hub, which knows Taro; HF_ENDPOINT leads to it."""
    with server.running() as running:
        running.users = {TOKEN: {"name": "taro", "role": "write"}, READ_ONLY: {"name": "taro", "role": "read"}}
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")  # certificates, which take 0.1 s to read and are not needed here
        yield running


@pytest.fixture
def no_wait(monkeypatch):
    """The client tries again at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def push(release: Path, tag: str = "v1.0", public: bool = False, token: str = TOKEN, repo: str = REPO) -> str:
    return hub.push(release, repo, tag, public, token)


def refused(release: Path, **options) -> str:
    with pytest.raises(StageError) as raised:
        push(release, **options)
    assert raised.value.__cause__ is None and (raised.value.__context__ is None or raised.value.__suppress_context__)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def require_published(remote, release: Path, commits: int = 1) -> None:
    """Fail unless the Hub holds the release, in so many commits on top of its own, with its tag."""
    repository = remote.repositories[REPO]
    history = repository.history("v1.0")
    assert {name: blob.content for name, blob in history[0].files.items()} == contents(release)
    assert [name for name, blob in sorted(history[0].files.items()) if blob.lfs] == LARGE
    assert len(history) == commits + 1


# Before the work


@pytest.mark.parametrize("repo", ["bert", "a/b/c", "taro/", "/x", "taro/a--b", "ta ro/x", "taro/x.git", "../x", ""])
def test_repositories_that_the_hub_refuses(repo):
    with pytest.raises(StageError, match="^--repo must be ACCOUNT/NAME on the Hub, each as --name has to be, got '"):
        hub.check(repo, False, False, "v1.0")


@pytest.mark.parametrize("tag", ["", "v1..0", "v1.0.", "-v1", "v 1", "v1/0", "v1.lock", "版1", "v1\n", "main", "HEAD"])
def test_tags_that_git_refuses(tag):
    with pytest.raises(StageError, match="--tag must be a version such as v1.0"):
        hub.check(REPO, True, False, tag)


def test_pushing_needs_a_repository():
    for options in ((True, False), (False, True)):
        with pytest.raises(StageError, match="^--push and --public need --repo ACCOUNT/NAME$"):
            hub.check(None, *options, "v1.0")
    hub.check(None, False, False, "v1.0")
    hub.check(REPO, True, True, "v1.0-rc.1")


@pytest.fixture
def login(tmp_path, monkeypatch) -> Path:
    """The login file, which is not there yet, and no token in the environment."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "token"


def test_the_token_is_that_of_the_environment_then_of_the_login_file(login, monkeypatch):
    with pytest.raises(StageError) as raised:
        hub.require_token(REPO)
    assert str(raised.value) == (
        "no token of the Hub was found: run `hf auth login`, or set HF_TOKEN to a token with write permission "
        "(https://huggingface.co/settings/tokens)"
    )
    login.write_text("hf_ofTheFile\n")
    assert hub.require_token(REPO) == "hf_ofTheFile"
    monkeypatch.setenv("HF_TOKEN", "hf_ofTheEnvironment")
    assert hub.require_token(REPO) == "hf_ofTheEnvironment"


@pytest.mark.parametrize("token", ["hf_Canary と", "hf_Canary two", "hf_Canary\x07"])
def test_a_token_that_is_none_is_not_sent_and_not_shown(token, login, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(StageError, match="^the token of the Hub holds characters that no token has: run ") as raised:
        hub.require_token(REPO)
    assert "Canary" not in str(raised.value)


def test_a_login_that_fails_is_one_sentence_without_the_words_of_others(login, remote, monkeypatch):
    login.mkdir()
    with pytest.raises(StageError, match=r"^Is a directory \(.*token\): check the path and its permissions$"):
        hub.require_token(REPO)
    monkeypatch.setenv("HF_OIDC_RESOURCE", "taro/bert-tiny-ja")
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", remote.url)
    remote.fail("unknown", 401, body=f'{{"error": "no {TOKEN}"}}')
    with pytest.raises(StageError) as raised:
        hub.require_token(REPO)
    assert "Canary" not in str(raised.value) and remote.steps() == ["unknown"]


def test_the_entry_of_a_version_is_found_wherever_it_stands():
    assert hub.entry(NEWS, "v1.0") == "- First release: 2 layers\n- Not evaluated"
    assert hub.entry("## [v2.0] - 2026-11-26\n### Added\n- x\n", "v2.0") == "### Added\n- x"
    for text, tag in ((NEWS, "v1"), (NEWS, "v1.0.1"), ("# v1.0\n\ntext ## v1.0\n", "v1.0"), ("", "v1.0")):
        with pytest.raises(StageError) as raised:
            hub.entry(text, tag)
        assert str(raised.value) == (
            f"CHANGELOG.md has no entry for {tag}: write one (## {tag}, and what is new) and pass it with --changelog, "
            "or name the version of an entry with --tag"
        )


# What goes up


def test_git_lfs_takes_what_the_hub_refuses_in_git(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    for name, content in {
        "tokenizer.json": b"a" * hub.LFS_BYTES,
        "vocab.txt": b"a" * (hub.LFS_BYTES - 1),
        "model.onnx": b"\0",
        "curve.webp": b"RIFF\0",
        "late.txt": b"a" * hub.BINARY_BYTES + b"\0",
    }.items():
        (folder / name).write_bytes(content)
    lines = hub.gitattributes(folder).decode().splitlines()
    assert lines[0] == "*.bin filter=lfs diff=lfs merge=lfs -text"
    assert [line.split()[0] for line in lines] == [*hub.LFS_PATTERNS, "curve.webp", "tokenizer.json"]


def test_a_dry_run_shows_files_sizes_and_the_card(small, remote):
    size = {name: f"{len(content):>15,}" for name, content in contents(small).items()}
    total = sum(len(content) for content in contents(small).values())
    assert hub.plan(small, REPO, "v1.0", False).splitlines() == [
        f"{small} -> {remote.url}/taro/bert-tiny-ja (private, tag v1.0)",
        "          bytes  by   file",
        f"{size['.gitattributes']}  git  .gitattributes",
        f"{size['CHANGELOG.md']}  git  CHANGELOG.md",
        f"{size['README.md']}  git  README.md",
        f"{size['config.json']}  git  config.json",
        f"{size['meta.json']}  git  meta.json",
        "        102,400  lfs  model.safetensors",
        f"{size['spm.model']}  lfs  spm.model",
        f"{size['tokenizer.json']}  git  tokenizer.json",
        f"{total:>15,}       8 files",
        "",
        "README.md:",
        "",
        *CARD.splitlines(),
    ]
    assert "(public, tag v2)" in hub.plan(small, REPO, "v2", True)
    assert remote.requests == []


# A push


def test_a_push_is_one_commit_with_a_tag_in_a_private_repository(small, remote, capfd):
    assert push(small) == f"{remote.url}/taro/bert-tiny-ja/tree/v1.0"
    require_published(remote, small)
    repository = remote.repositories[REPO]
    commit = repository.commits[repository.tags["v1.0"]]
    assert (repository.private, repository.head) == (True, commit.oid)
    assert commit.title == "bert-tiny-ja v1.0"
    assert commit.description == "- First release: 2 layers\n- Not evaluated"
    assert capfd.readouterr() == ("", f"uploaded to {REPO} (private), commit {commit.oid[:12]}, tag v1.0\n")
    assert set(remote.steps()) == set(USED)


def test_a_public_push_is_public(small, remote):
    push(small, public=True)
    assert not remote.repositories[REPO].private


def test_a_push_that_is_done_changes_nothing_when_it_is_repeated(small, remote, capfd):
    first = push(small)
    before, remote.requests[:] = remote.repositories[REPO].head, []
    capfd.readouterr()
    assert push(small) == first
    assert remote.steps() == ["create", "info", "refs", "tree"]
    assert remote.repositories[REPO].head == before
    assert capfd.readouterr().err == f"{REPO} has this release already, as v1.0: nothing to upload\n"


def test_a_large_file_comes_in_parts_where_the_hub_asks_for_them(small, remote):
    remote.part_bytes = 30_000
    push(small)
    require_published(remote, small)
    parts = [path.rpartition("/")[2] for step, path in remote.requests if step == "upload" and "?" not in path]
    assert (parts, remote.steps().count("complete")) == (["1", "2", "3", "4"], 1)


def test_another_release_does_not_take_the_tag(small, remote, tmp_path):
    push(small)
    other = write_release(tmp_path / "other", config_json=b'{"vocab_size": 41}\n')
    head, remote.requests[:] = remote.repositories[REPO].head, []
    assert refused(other) == (
        f"v1.0 of {REPO} is another release, its config.json is not this one's: give this one a version of its own "
        "with --tag, and an entry for it in a text for --changelog"
    )
    assert (remote.repositories[REPO].head, remote.steps()) == (head, ["create", "info", "refs", "tree"])
    push(other, tag="v1.1")
    assert remote.repositories[REPO].history("v1.1")[1].oid == remote.repositories[REPO].tags["v1.0"]


def test_what_only_an_earlier_release_had_goes_and_what_none_had_stays(small, remote, tmp_path, capfd):
    push(write_release(tmp_path / "old", tf_model_h5=b"old weights"))
    remote.repositories[REPO].add(notes_md=b"by hand")
    push(small, tag="v1.1")
    assert set(remote.repositories[REPO].history("v1.1")[0].files) == set(contents(small)) | {"notes.md"}
    assert capfd.readouterr().err.splitlines()[-3:-1] == [
        f"notes.md of {REPO} is of no release: it stays",
        f"tf.model.h5 of {REPO} is of an earlier release: taken away",
    ]
    assert "tf.model.h5" in remote.repositories[REPO].history("v1.0")[0].files


def test_a_later_release_does_not_forget_the_earlier_ones(small, remote, tmp_path):
    push(small)
    forgetful = write_release(tmp_path / "other", CHANGELOG_md=b"# Changelog\n\n## v1.1\n\n- First release\n")
    assert refused(forgetful, tag="v1.1") == (
        f"CHANGELOG.md does not name v1.0, which {REPO} has: write the entry for v1.1 into the changelog there, and "
        "pass it with --changelog"
    )
    assert remote.steps().count("commit") == 1


def test_a_repository_is_not_made_public_or_private_by_a_push(small, remote):
    remote.repositories[REPO] = server.Repository(private=False)
    assert refused(small) == (
        f"{REPO} exists and is public: pass --public True, or make it private in its settings on the Hub"
    )
    remote.repositories[REPO] = server.Repository(private=True)
    assert refused(small, public=True) == (
        f"{REPO} exists and is private: leave --public out, and make it public in its settings on the Hub"
    )
    assert "commit" not in remote.steps()


def test_the_client_is_offline_before_and_after(small, remote):
    import huggingface_hub

    handlers = logging.getLogger("huggingface_hub").handlers
    push(small)
    assert logging.getLogger("huggingface_hub").handlers == handlers
    before = len(remote.requests)
    with pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled):
        huggingface_hub.HfApi(endpoint=remote.url).model_info(REPO)
    assert len(remote.requests) == before


# Failures: one sentence, no token, and the same command again


LOGIN = "run `hf auth login`, or set HF_TOKEN to a token with write permission (https://huggingface.co/settings/tokens)"
AGAIN = "run the same command again, what is on the Hub already is not sent twice"


def expected(status: int, remote, words: str = "") -> str:
    return {
        401: f"the Hub does not accept the token (401), it is wrong or has expired: {LOGIN}; HF_TOKEN goes first",
        403: f"the token may not write to {REPO} (403{words}): take one with write permission for taro, or name your "
        "own account in --repo",
        404: f"the Hub knows no {REPO} that this token may see (404): check --repo, and whose token it is",
        409: f"{REPO} was changed by somebody else meanwhile (409): look at {remote.url}/{REPO} and run the same "
        "command again",
        412: f"{REPO} was changed by somebody else meanwhile (412): look at {remote.url}/{REPO} and run the same "
        "command again",
        413: f"the Hub refused {REPO} (413{words}): mend that and {AGAIN}",
        429: f"the Hub asks to wait (429): later {AGAIN}",
        500: f"the Hub failed (500): later {AGAIN}",
    }[status]


def require_silence(capfd, tmp_path: Path) -> None:
    """Fail if a part of the token was printed, or stands in a file."""
    said = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "Canary" not in said.out + said.err and b"Canary" not in written
    assert "signature" not in said.out + said.err  # of an address that is signed for this upload


def require_one_sentence(step: str, status: int, remote, release: Path) -> None:
    """Fail unless this answer at this step is one sentence; the words of the Hub quote the token, where it is sent."""
    for repository in remote.repositories.values():
        repository.large.clear()  # or some steps are left out
    remote.fail(step, status, body='{"error": "planted for {token}"}')
    words = ": planted for" if step == "upload" else ""
    assert refused(release) == expected(status, remote, words)


@pytest.mark.parametrize("step", USED)
def test_refusals_are_one_sentence_and_the_push_can_be_repeated(step, small, remote, no_wait, capfd, tmp_path):
    for status in {401, 403, 409, 500} - ({409} if step == "create" else set()):  # 409: the repository is there
        require_one_sentence(step, status, remote, small)
    require_silence(capfd, tmp_path)
    remote.heal()
    push(small)
    require_published(remote, small)


@pytest.mark.full
@pytest.mark.parametrize("status", [401, 403, 404, 412, 413, 429, 500])
@pytest.mark.parametrize("step", USED)
def test_a_push_can_be_repeated_after_each_refusal(step, status, small, remote, no_wait, capfd, tmp_path):
    require_one_sentence(step, status, remote, small)
    require_silence(capfd, tmp_path)
    remote.heal()
    push(small)
    require_published(remote, small)


def test_the_words_of_the_hub_are_shown_where_they_hold_no_token(small, remote):
    remote.fail("commit", 403, body='{"error": "Storage\\nquota exceeded"}')
    assert refused(small) == expected(403, remote, ": Storage quota exceeded")
    remote.fail("commit", 413, body=f'{{"error": "no room for {TOKEN[5:20]}"}}')
    assert refused(small) == expected(413, remote)
    remote.fail("commit", 413, body="plain text for {token}")
    assert refused(small) == expected(413, remote)
    remote.fail("commit", 413, body=f"{'long ' * 39}{TOKEN.lower()}")  # whose cut would show its beginning
    assert refused(small) == expected(413, remote)


def breaks() -> list:
    """Each way to break the connection at each step; some of them are quick."""
    quick = [("upload", server.BREAK), ("commit", server.LOSE), ("tag", server.LOSE)]
    ways = [(step, how) for step in USED for how in (server.BREAK, server.LOSE, server.HANG)]
    return [pytest.param(*way, marks=() if way in quick else pytest.mark.full) for way in ways]


@pytest.mark.parametrize("step, how", breaks())
def test_every_broken_connection_is_one_sentence_and_can_be_repeated(
    step, how, small, remote, no_wait, capfd, tmp_path
):
    remote.fail(step, how)
    with pytest.MonkeyPatch.context() as patch:
        if how == server.HANG:
            patch.setattr(hub, "TIMEOUT", 2)
        said = refused(small)
    kind = "ReadTimeout" if how == server.HANG else "(ReadError|WriteError|RemoteProtocolError)"
    assert re.fullmatch(f"the connection to {remote.url}/{REPO} broke \\({kind}\\): {AGAIN}", said), said
    require_silence(capfd, tmp_path)
    remote.heal()
    push(small)
    require_published(remote, small)


def test_a_connection_that_breaks_once_in_an_upload_is_mended_by_the_client(small, remote, no_wait, capfd):
    remote.fail("upload", server.BREAK, times=1)
    push(small)
    require_published(remote, small)
    assert "the Hub does not answer as it should. Retrying in 1s [Retry 1/5].\n" in capfd.readouterr().err


def test_what_was_uploaded_before_a_failure_is_not_sent_again(small, remote):
    remote.fail("commit", 500)
    refused(small)
    assert sorted(remote.steps()).count("upload") == len(LARGE)
    remote.heal()
    push(small)
    assert "upload" not in remote.steps()


def test_no_hub_is_one_sentence(small, monkeypatch, no_wait):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert refused(small) == f"the connection to http://127.0.0.1:9/{REPO} broke (ConnectError): {AGAIN}"


def test_a_commit_that_comes_between_is_not_overwritten(small, remote):
    remote.fail("commit", lambda: remote.repositories[REPO].add(README_md=b"by hand"), times=1)
    assert refused(small) == expected(412, remote)
    assert remote.repositories[REPO].history()[0].title == "by hand"
    push(small)
    require_published(remote, small, commits=2)


def test_a_commit_that_comes_between_is_not_tagged(small, remote):
    remote.fail("tag", 500)
    refused(small)
    remote.heal()
    remote.fail("batch", lambda: remote.repositories[REPO].add(README_md=b"by hand"), times=1)
    assert refused(small) == expected(409, remote)
    assert remote.repositories[REPO].tags == {}


def test_an_answer_that_makes_no_sense_is_one_sentence(small, remote):
    for step, body in (("modes", "{}"), ("info", "[]"), ("card", "<html>"), ("batch", '{"objects": 1}')):
        remote.heal()
        remote.fail(step, 200, body=body)
        assert refused(small).startswith("the Hub or its answer is not as it should be: ")


def test_a_card_that_the_hub_refuses_is_one_sentence(tmp_path, remote):
    said = refused(write_release(tmp_path / "wrong", README_md=b"---\nlicense: [\n---\n"))
    assert said == f'the Hub refused {REPO} (400: "license" must be one of a list): mend that and {AGAIN}'


def test_tokens_that_may_not_write(small, remote):
    words = ": You don't have the rights to create a model under the namespace taro"
    assert refused(small, token="hf_unknown") == expected(401, remote)
    assert refused(small, token=READ_ONLY) == expected(403, remote, words)
    assert "may not write to hanako/x (403: You don't" in refused(small, repo="hanako/x")
    assert remote.repositories == {}


# As a user does it


@pytest.fixture
def here(model, result, copy) -> Path:
    """A folder with a model and its result."""
    return copy("model", "test_result.json")


def test_nothing_is_sent_without_push(here, remote, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = stage("release_model.py", "--repo", REPO, cwd=here)
    shown = hub.plan(here / "release" / "bert-tiny-ja", REPO, "v1.0", False)
    assert done.stdout.replace("release/bert-tiny-ja ->", f"{here}/release/bert-tiny-ja ->") == shown + "\n"
    assert done.stderr.splitlines()[-1] == "nothing was sent: the same command with --push True uploads this"
    assert (remote.requests, "Canary" in done.stdout + done.stderr) == ([], False)


@pytest.mark.full
def test_the_same_command_with_push_uploads_what_was_shown(here, remote, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = stage("release_model.py", "--repo", REPO, "--push", "True", "--tag", "v0.9", cwd=here)
    assert done.stdout == f"{remote.url}/{REPO}/tree/v0.9\n"
    assert set(remote.steps()) == set(USED)  # and nothing else, such as telemetry
    repository = remote.repositories[REPO]
    released = repository.commits[repository.tags["v0.9"]].files
    assert {name: blob.content for name, blob in released.items()} == contents(here / "release" / "bert-tiny-ja")
    assert released["CHANGELOG.md"].content.startswith(b"# Changelog of bert-tiny-ja\n\n## v0.9\n\n- First release: ")
    require_no_canary(done, here)


def require_no_canary(done, *folders: Path) -> None:
    assert "Canary" not in done.stdout + done.stderr
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "token"):
        assert b"Canary" not in path.read_bytes(), path


def test_refusals_before_any_work(tmp_path):
    (tmp_path / "model").mkdir()
    nobody = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": ""}
    said = refusal("release_model.py", "--repo", REPO, "--push", "True", cwd=tmp_path, env=nobody)
    assert said == f"no token of the Hub was found: {LOGIN}"
    said = refusal("release_model.py", "--repo", REPO, "--token", TOKEN, cwd=tmp_path)
    assert said.startswith("--token is not an option of release_model.py") and "Canary" not in said
    said = refusal("release_model.py", "--repo", REPO, "--name", "bert-base-ja", cwd=tmp_path)
    assert said == f"--name bert-base-ja and --repo {REPO} are two names: leave --name out, or make them the same"
    said = refusal("release_model.py", "--repo", "bert", "--tag", "v 1", cwd=tmp_path)
    assert said == (
        "--repo must be ACCOUNT/NAME on the Hub, each as --name has to be, got 'bert'; --tag must be a version such as "
        "v1.0 (letters, digits, -, _ and .), got 'v 1'"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_own_changelog_needs_an_entry_for_what_is_published(here):
    (here / "news.md").write_text("# News\n\n## v2.0\n\n- Better\n")
    said = refusal("release_model.py", "--repo", REPO, "--changelog", "news.md", cwd=here)
    assert said.startswith("CHANGELOG.md has no entry for v1.0: write one (## v1.0, and what is new) and pass it ")
    assert not (here / "release").exists()


@pytest.mark.full
def test_the_token_of_the_login_file_is_in_nothing_that_is_said_or_written(here, remote, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN)
    environment = {"HF_HOME": str(home), "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "HF_DEBUG": "1"}
    command = ("release_model.py", "--repo", REPO, "--push")
    for step, how in (("create", 401), ("info", 403), ("batch", server.BREAK), ("upload", 500), ("commit", 409)):
        remote.heal()
        remote.fail(step, how, body='{"error": "{token}", "errors": [{"message": "Bearer {token}"}]}')
        done = stage(*command, cwd=here, env=environment, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("release_model.py: error: ") and "Traceback" not in done.stderr
        require_no_canary(done, tmp_path)
    remote.heal()
    require_no_canary(stage(*command, cwd=here, env=environment), tmp_path)
    assert len(remote.repositories[REPO].history("v1.0")) == 2


# Fetched back

TEXTS = ["専門として[MASK]を専攻しています", "日本の[MASK]は、古くから人々に親しまれてきた。", "猫"]


def predictions(name: str) -> tuple:
    """(ids, best guesses, logits) of some texts; also in an interpreter that has nothing of ours."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.AutoModelForMaskedLM.from_pretrained(name).eval()
    fill_mask = transformers.pipeline("fill-mask", name)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    guesses = [[guess["token_str"] for guess in fill_mask(text)] for text in TEXTS[:2]]
    return batch["input_ids"].tolist(), guesses, model(**batch).logits.detach().flatten().tolist()


FETCH = f"""
import json, sys, huggingface_hub
TEXTS = {TEXTS}
{inspect.getsource(predictions)}
print(huggingface_hub.snapshot_download(sys.argv[1], revision="v1.0", cache_dir=sys.argv[2]))
print(json.dumps(predictions(sys.argv[1])))
"""


def require_fetched(python: str, remote, released: Path, model: Path, tmp_path: Path) -> None:
    """Fail unless the pushed release, fetched into empty caches, has its bytes, and predicts as the exported model."""
    push(released)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    command = [python, "-c", FETCH, REPO, str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    snapshot, predicted = done.stdout.splitlines()
    assert contents(Path(snapshot)) == contents(released)
    ids, guesses, logits = json.loads(predicted)
    own_ids, own_guesses, own_logits = predictions(str(model))
    assert (ids, guesses) == (own_ids, own_guesses)
    assert max(abs(a - b) for a, b in zip(logits, own_logits, strict=True)) < 1e-5


@pytest.mark.full
def test_the_pushed_release_is_fetched_back_and_predicts_as_the_exported_model(remote, release, model, tmp_path):
    require_fetched(sys.executable, remote, release, model, tmp_path)


@pytest.mark.full
def test_the_pushed_release_predicts_the_same_in_transformers_4(remote, release, model, tmp_path):
    python = ROOT / ".venv-compat" / "bin" / "python"
    if not python.exists():
        pytest.skip("make .venv-compat was not run")
    require_fetched(str(python), remote, release, model, tmp_path)


# The way of git and git-lfs


@pytest.mark.full
def test_the_commands_of_the_readme_publish_with_git_lfs(small, tmp_path, monkeypatch):
    if shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not on this machine")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(git lfs install\n.*?)```", readme, re.DOTALL)[1]
    small.rename(small.with_name("bert-base-ja"))
    bare = tmp_path / "bare.git"
    environment = {"HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "Taro", f"GIT_{role}_EMAIL": "taro@example.org"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    there = commands.replace("https://huggingface.co/NAME/bert-base-ja", f"file://{bare}")
    assert there != commands
    subprocess.run(["bash", "-euc", there], cwd=tmp_path, check=True, capture_output=True)

    def in_git(name: str) -> bytes:
        return subprocess.run(["git", "show", f"v1.0:{name}"], cwd=bare, capture_output=True, check=True).stdout

    released = contents(small.with_name("bert-base-ja"))
    for name, content in released.items():
        assert in_git(name) == server.Blob(content, name in LARGE).in_git, name
    subprocess.run(["git", "clone", "--quiet", f"file://{bare}", "again"], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / "again" / ".git")
    assert contents(tmp_path / "again") == released
