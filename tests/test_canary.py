"""Nothing private leaves: canaries planted in the corpus and in every name of the machine are in no byte of a release.

The stages run as on a user's machine whose folders, files, host and login have names that can be searched for.
"""

import base64
import binascii
import json
import os
import re
import zlib
from pathlib import Path

import pytest
from conftest import stage
from test_private_corpus import FEW
from texts import text

HOST, USER, PLACE, FILE, FIELD, DOCUMENT = NAMES = (
    *("canaryhost", "canaryuser", "canaryplace", "canaryfile", "canaryfield", "canarydocument"),
)
LINES = [f"珊瑚色の鍵穴を第{number}の番人だけが覚えている。" for number in "一二三四五六七八九"]
GUARD = f"""\
import platform
import socket

socket.gethostname = platform.node = lambda: "{HOST}"
"""


def documents() -> list[dict]:
    """A corpus as JSONL: sentences of texts.py, and among them a canary a line."""
    found = [lines.split("\n") for lines in text(300, seed=4).strip().split("\n\n")]
    for number, line in enumerate(LINES):
        found[10 * number].insert(1, line)
    return [{FIELD: "\n".join(lines), "id": f"{DOCUMENT}{number}"} for number, lines in enumerate(found)]


def forms(content: bytes) -> list[str]:
    """Bytes as text in each way that could hide some: UTF-8, UTF-16, JSON's escapes, base64, a deflated picture."""
    plain = content.decode("utf-8", errors="replace")
    found = [plain, re.sub(r"\\u([0-9a-fA-F]{4})", lambda escape: chr(int(escape[1], 16)), plain)]
    found += [content[start:].decode(kind, errors="replace") for kind in ("utf-16-le", "utf-16-be") for start in (0, 1)]
    for run in re.findall(rb"[A-Za-z0-9+/]{12,}={0,2}", content):
        try:
            found.append(base64.b64decode(run[: len(run) // 4 * 4]).decode("utf-8", errors="replace"))
        except binascii.Error:
            continue
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content) if content.startswith(b"\x89PNG") else ():
        try:
            found.append(zlib.decompressobj().decompress(content[start.start() :]).decode("utf-8", errors="replace"))
        except zlib.error:
            continue
    return found


def leaks(folder: Path, wanted: list[str]) -> set[tuple[str, str]]:
    """(file, what stands in it) of every file of a folder, and of the files' names."""
    found = {("a file's name", word) for word in wanted for path in folder.iterdir() if word in path.name.lower()}
    for path in filter(Path.is_file, folder.iterdir()):
        shapes = [shape.lower() for shape in forms(path.read_bytes())]
        found |= {(path.name, word) for word in wanted if any(word in shape for shape in shapes)}
    return found


def test_the_search_finds_what_is_hidden():
    """In each of the forms, so that a release without finds is one without canaries."""
    word = "珊瑚色の鍵穴"
    hidden = (
        *(word.encode(), word.encode("utf-16-le"), b"x" + word.encode("utf-16-be"), json.dumps(word).encode()),
        *(base64.b64encode(word.encode()), b"\x89PNG" + zlib.compress(word.encode())),
    )
    assert all(any(word in shape for shape in forms(content)) for content in hidden)
    assert not any(word in shape for shape in forms("珊瑚色の鍵".encode()))


@pytest.mark.full
@pytest.mark.parametrize("private", [False, True])
def test_no_canary_is_in_any_byte_of_a_release(private, tmp_path):
    home, work = tmp_path / USER, tmp_path / PLACE / "work"
    for folder in (home, work):
        folder.mkdir(parents=True)
    (home / "sitecustomize.py").write_text(GUARD)
    corpus = work / f"{FILE}.jsonl"
    rows = documents()
    corpus.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    names = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), USER)
    env = names | {"HOME": str(home), "HOSTNAME": HOST, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    parts = ("--valid_sentences", 150, "--test_sentences", 150, "--text_field", FIELD, "--id_field", "id")
    run = f"lightning_logs/version_0/checkpoints/{FILE}.ckpt"
    config = Path(__file__).resolve().parents[1] / "configs" / "tiny.yaml"

    def call(script: str, *arguments, stdout: str | None = None) -> None:
        stage(script, *arguments, cwd=work, stdout=work / stdout if stdout else None, env=env)

    call("prepare_corpus.py", corpus, "--name", "reports", *parts, "--private_corpus", private, "--filters", "none")
    call("train_tokenizer.py", "--train_file", work / "data/train.txt", "--vocab_size", 300)
    for part in ("train", "valid", "test"):
        command = ("--filename", work / f"data/{part}.txt", "--get_raw", part != "train")
        call("prepare_train_data.py", *command, stdout=f"data/{part}.jsonl")
    call("trainer.py", "--config", config, *FEW)
    os.rename(work / "lightning_logs/version_0/checkpoints/last.ckpt", work / run)
    call("test.py", "--ckpt_path", work / run, stdout="test_result.json")
    call("export_model.py", "--ckpt_path", work / run)
    call("convert_tokenizer.py", "--spm_model", work / "output/spm/sp.model")
    call("release_model.py", "--license", "other")

    lines = [line for row in rows for line in row[FIELD].split("\n") if len(line) >= 10]
    machine = [HOST, USER, PLACE, str(tmp_path), DOCUMENT]
    release = work / "release/bert-base-ja"
    assert leaks(release, [*machine, *lines, *((FILE, FIELD) if private else ())]) == set()
    assert (release / "loss_curve.png").is_file()
    # What the search finds where nobody has looked for it:
    assert {word for _, word in leaks(work / "model", machine)} == {HOST, PLACE, str(tmp_path)}
    assert {word for _, word in leaks(work / "data", [*LINES, DOCUMENT])} == {*LINES, DOCUMENT}
