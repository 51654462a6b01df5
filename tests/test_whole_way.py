"""The whole way: a real dump to a release in every format, published, fetched back, and asked in every environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub as server
import pytest
from conftest import CONFIG, ROOT, shared, stage

from bert_ja import files, formats

TOKEN, REPO = "hf_TokenOfTheWholeWay", "taro/bert-mini-ja"
CLOSE = 1e-4  # of probabilities, relative
ENVIRONMENTS = {"5": Path(sys.executable), "4.57": ROOT / ".venv-compat" / "bin" / "python"}

# In an environment that has nothing of ours: (version, guesses for each prompt).
ASK = """
import json, sys, transformers
fill_mask = transformers.pipeline("fill-mask", sys.argv[1], top_k=5)
guesses = [[(guess["token"], guess["score"]) for guess in fill_mask(prompt)] for prompt in sys.argv[2:]]
print(json.dumps([transformers.__version__, guesses]))
"""
FETCH = """
import sys, huggingface_hub
print(huggingface_hub.snapshot_download(sys.argv[1], revision="v1.0"))
"""
ASK_ONNX = """
import json, sys, numpy as np, onnxruntime, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
session = onnxruntime.InferenceSession(sys.argv[1] + "/onnx/model.onnx")
found = []
for prompt in sys.argv[2:]:
    batch = dict(tokenizer([prompt], return_tensors="np"))
    (logits,) = session.run(["logits"], batch)
    logits = logits[0, int(np.argmax(batch["input_ids"][0] == tokenizer.mask_token_id))].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    found.append([(int(token), float(shares[token])) for token in np.argsort(-shares)[:5]])
print(json.dumps(["onnx", found]))
"""
ASK_TENSORFLOW = """
import json, os, sys
os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
import numpy as np, tensorflow as tf, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.TFBertForMaskedLM.from_pretrained(sys.argv[1], use_safetensors=False)
found = []
for prompt in sys.argv[2:]:
    batch = tokenizer([prompt], return_tensors="tf")
    place = int(np.argmax(batch["input_ids"][0].numpy() == tokenizer.mask_token_id))
    shares = tf.nn.softmax(model(batch).logits[0, place]).numpy()
    found.append([(int(token), float(shares[token])) for token in np.argsort(-shares)[:5]])
print(json.dumps(["tensorflow", found]))
"""


def make(work: Path, dump: Path) -> None:
    """Every stage up to the verified model, with a small vocabulary and a model of a minute."""
    stage("get_jawiki.sh", dump, "--valid_sentences", 400, "--test_sentences", 400, cwd=work)
    stage("train_tokenizer.py", "--train_file", "data/train.txt", "--vocab_size", 6000, cwd=work)
    for part, raw in (("train", False), ("valid", True), ("test", True)):
        names = ("--filename", f"data/{part}.txt", "--output_file", f"data/{part}.jsonl")
        stage("prepare_train_data.py", *names, "--get_raw", raw, cwd=work)
    short = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 150, "--trainer.check_val_every_n_epoch", 1)
    stage("trainer.py", "--config", CONFIG, *short, cwd=work)
    stage("test.py", "--ckpt_path", "best", cwd=work, stdout=work / "test_result.json")
    stage("export_model.py", "--ckpt_path", "best", cwd=work)
    stage("convert_tokenizer.py", cwd=work)


def said_by(python: Path, program: str, *arguments, environment: dict | None = None) -> str:
    command = [str(python), "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def require_same_guesses(said: str, trained: list[dict]) -> str:
    """The version or format that has answered, if it guesses what the training process did."""
    name, guesses = json.loads(said)
    for found, expected in zip(guesses, trained, strict=True):
        assert [token for token, _ in found] == [token for token, _ in expected["guesses"]], name
        assert [score for _, score in found] == pytest.approx([score for _, score in expected["guesses"]], rel=CLOSE)
    return name


@pytest.mark.full
def test_a_dump_becomes_a_model_that_is_the_same_everywhere(tmp_path):
    dump = shared("data", "dump", "jawiki-mini-pages-articles-multistream.xml.bz2")
    missing = [str(path) for path in (*ENVIRONMENTS.values(), formats.PYTHON) if not path.exists()]
    if missing:
        pytest.skip(f"{missing[0]} is not there: make .venv-compat .venv-tensorflow")
    make(tmp_path, dump)
    trained = files.read_record(tmp_path / "model")["gate"]["fill_mask"]
    prompts = [each["prompt"] for each in trained]
    with server.running() as hub:
        hub.users = {TOKEN: {"name": "taro", "role": "write"}}
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        options = ("--repo", REPO, "--push", True, "--formats", ",".join(formats.FORMATS))
        published = stage("release_model.py", *options, cwd=tmp_path, env=environment)
        assert published.stdout == f"{hub.url}/{REPO}/tree/v1.0\n"
        release, answered, snapshot = tmp_path / "release" / "bert-mini-ja", [], ""
        for version, python in ENVIRONMENTS.items():
            online = environment | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / f"home-{version}")}
            online = {**os.environ, **online}
            snapshot = said_by(python, FETCH, REPO, environment=online)
            answered.append(require_same_guesses(said_by(python, ASK, REPO, *prompts, environment=online), trained))
    assert [name.startswith(version) for name, version in zip(answered, ENVIRONMENTS, strict=True)] == [True, True]
    assert files.names_in(snapshot) == files.names_in(release)
    assert all(
        (Path(snapshot) / name).read_bytes() == (release / name).read_bytes() for name in files.names_in(release)
    )
    assert {"model.safetensors", "onnx/model.onnx", "tf_model.h5", "loss_curve.png"} <= set(files.names_in(snapshot))
    require_same_guesses(said_by(Path(sys.executable), ASK_ONNX, snapshot, *prompts), trained)
    require_same_guesses(said_by(formats.PYTHON, ASK_TENSORFLOW, snapshot, *prompts), trained)
    verified = stage("release_model.py", "--verify", snapshot, "--data", dump.parent, cwd=tmp_path, check=False)
    assert verified.returncode == 0, verified.stderr[-3000:]
