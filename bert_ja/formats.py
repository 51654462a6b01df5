"""Other formats of a released model, each compared with PyTorch before it counts: ONNX and TensorFlow.

Either needs packages that nothing else does, so each has a requirements file of its own; TensorFlow an environment too,
as transformers 5 has no TensorFlow classes.
"""

import contextlib
import functools
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bert_ja import cli, files

ROOT = Path(__file__).resolve().parents[1]
SAFETENSORS, ONNX, TENSORFLOW = FORMATS = ("safetensors", "onnx", "tensorflow")
# Of logits, as a share of the largest one where that is above 1: PyTorch's own rounding in float32 is of that order
# (7e-6 beside float64, for logits up to 4 of a random model of 12 layers).
TOLERANCE = 1e-5
ONNX_FILE, TENSORFLOW_FILE = "onnx/model.onnx", "tf_model.h5"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("logits", "seq_relationship_logits")
OPSET = 18
LARGEST_ONNX = 2_000_000_000  # bytes of one protobuf message
PYTHON = ROOT / ".venv-tensorflow" / "bin" / "python"


# Before the work


def _require_onnx() -> None:
    if missing := [package for package in ONNX_PACKAGES if importlib.util.find_spec(package) is None]:
        raise cli.StageError(
            f"--formats onnx needs {' and '.join(missing)}, not installed here: pip install -r requirements-onnx.txt"
        )


def _require_tensorflow() -> None:
    if not (PYTHON.is_file() and (PYTHON.parents[1] / "ready").is_file()):
        raise cli.StageError(
            f"--formats tensorflow needs an environment of its own, {PYTHON.parents[1].name}: make .venv-tensorflow"
        )


def require(formats: str) -> list[str]:
    """The formats beside safetensors that "safetensors,onnx" asks for. Raises StageError where one cannot be made."""
    asked = [name.strip() for name in formats.split(",")]
    if unknown := [name for name in asked if name not in FORMATS]:
        raise cli.StageError(f"--formats has {unknown[0]!r}: formats are {', '.join(FORMATS)}, parted by commas")
    chosen = [name for name in (ONNX, TENSORFLOW) if name in asked]
    for name in chosen:
        {ONNX: _require_onnx, TENSORFLOW: _require_tensorflow}[name]()
    return chosen


# What formats are compared on


def batches(config, tokenizer) -> Iterator[dict[str, np.ndarray]]:
    """Padded batches of several shapes, ids of our lines in them, each int64 (samples, tokens)."""
    from bert_ja import continuing

    longest = config.max_position_embeddings
    text = np.concatenate(tokenizer(list(continuing.LINES), add_special_tokens=False)["input_ids"])
    for size, length in ((1, 1), (1, longest), (8, min(9, longest)), (3, min(130, longest))):
        ids = np.resize(text, (size, length))
        ends = np.maximum(1, length - 2 * np.arange(size))  # the first sample is whole
        places = np.arange(length)
        mask, types = places < ends[:, None], places > ends[:, None] // 2
        ids[:, 0] = tokenizer.cls_token_id
        ids[~mask] = tokenizer.pad_token_id
        types = types & mask & (config.type_vocab_size > 1)
        yield {name: part.astype(np.int64) for name, part in zip(INPUTS, (ids, mask, types), strict=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _load(folder: Path):
    """(BertForPreTraining, batches to compare on)."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.BertForPreTraining.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, list(batches(model.config, tokenizer))


def logits(model, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(MLM, NSP) logits by PyTorch."""
    import torch

    with torch.no_grad():
        output = model(**{name: torch.from_numpy(values) for name, values in batch.items()})
    return output.prediction_logits.numpy(), output.seq_relationship_logits.numpy()


def _compare(found: tuple, expected: tuple, mask: np.ndarray) -> tuple[float, float]:
    """(the largest difference, the largest logit) where there is a token: padding is read by nobody. A nan is inf."""
    tokens = mask.astype(bool)
    pairs = ((found[0][tokens], expected[0][tokens]), (found[1], expected[1]))
    differences = [np.nan_to_num(np.abs(one - other), nan=np.inf).max() for one, other in pairs]
    return float(max(differences)), float(max(np.abs(other).max() for _, other in pairs))


def _facts(file: str, compared: list[tuple[float, float]], versions: dict) -> dict:
    """What the record says of a format. Raises StageError where it answers otherwise than PyTorch."""
    difference, largest = map(max, zip(*compared, strict=True))
    allowed = TOLERANCE * max(1.0, largest)
    if not difference <= allowed:
        raise cli.StageError(
            f"the logits of {file} differ from PyTorch's by {difference:.1e} (at most {allowed:.1e}): nothing was "
            "written, leave the format out of --formats, and please report this"
        )
    return {"file": file, "largest_difference": difference, "largest_logit": largest, "versions": versions}


# ONNX


def _headed(model):
    """A module whose outputs have the names that others look for: logits are those of the masked-LM head."""
    import torch

    class Headed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return output.prediction_logits, output.seq_relationship_logits

    return Headed().eval()


def _strip(proto) -> None:
    """Take out what the exporter writes of this machine: source lines, names of modules, its own notes."""
    graphs = [proto.graph, *proto.functions]
    for part in (proto, *graphs):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for graph in graphs:
        values = [] if graph in proto.functions else [*graph.initializer, *graph.input, *graph.output]
        for entry in (*graph.node, *graph.value_info, *values):
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")
    proto.graph.name = "bert"


def _export(model):
    """The ONNX model of a BertForPreTraining, with a free number of samples and of tokens."""
    import torch

    batch = {name: torch.ones(2, 8, dtype=torch.int64) for name in INPUTS}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=model.config.max_position_embeddings)}
    program = torch.onnx.export(
        _headed(model),
        kwargs=batch,
        dynamo=True,
        dynamic_shapes=dict.fromkeys(INPUTS, axes),
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        opset_version=OPSET,
        verbose=False,
    )
    return program.model_proto


def write_onnx(folder: Path) -> dict:
    """Write onnx/model.onnx of the model in a folder; the largest difference of its logits, and versions."""
    import onnx
    import onnxruntime

    model, given = _load(folder)
    with _quiet():
        proto = _export(model)
    _strip(proto)
    if proto.ByteSize() > LARGEST_ONNX:
        raise cli.StageError(f"{ONNX_FILE} would have over 2 GB, which one file cannot: leave onnx out of --formats")
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    (folder / ONNX_FILE).parent.mkdir(exist_ok=True)
    files.write_bytes(folder / ONNX_FILE, content)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, options, providers=["CPUExecutionProvider"])
    compared = [
        _compare(session.run(list(OUTPUTS), batch), logits(model, batch), batch["attention_mask"]) for batch in given
    ]
    return _facts(ONNX_FILE, compared, files.versions("torch", *ONNX_PACKAGES) | {"opset": OPSET})


# TensorFlow


def write_tensorflow(folder: Path) -> dict:
    """Write tf_model.h5 of the model in a folder, by a program in an environment of its own; the same facts."""
    model, given = _load(folder)
    with files.work_folder(None) as work:
        for number, batch in enumerate(given):
            np.savez(work / f"batch-{number}.npz", **batch)
        program = [str(PYTHON), str(ROOT / "bert_ja" / "tensorflow_weights.py"), str(folder), str(work)]
        ends = functools.partial(cli.end_with_parent, os.getpid(), signal.SIGTERM)  # when we are killed
        finished = subprocess.run(program, capture_output=True, text=True, errors="replace", preexec_fn=ends)
        if finished.returncode:
            reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
            raise cli.StageError(
                f"TensorFlow could not write {TENSORFLOW_FILE} ({reason}): make its environment again (rm -rf "
                ".venv-tensorflow; make .venv-tensorflow), or leave tensorflow out of --formats"
            )
        compared = []
        for number, batch in enumerate(given):
            with np.load(work / f"logits-{number}.npz") as answers:
                answer = answers["mlm"], answers["nsp"]
            compared.append(_compare(answer, logits(model, batch), batch["attention_mask"]))
        facts = _facts(TENSORFLOW_FILE, compared, json.loads((work / "versions.json").read_text()))
        shutil.copyfile(work / "tensorflow" / TENSORFLOW_FILE, folder / TENSORFLOW_FILE)
    return facts


WRITERS: dict[str, Callable[[Path], dict]] = {ONNX: write_onnx, TENSORFLOW: write_tensorflow}


def write(folder: Path, chosen: list[str]) -> dict:
    """Write the chosen formats beside the weights of a folder. {"onnx": {"file", "largest_difference", "versions"}}"""
    written = {}
    for name in chosen:
        written[name] = WRITERS[name](folder)
        file, difference, largest = (written[name][fact] for fact in ("file", "largest_difference", "largest_logit"))
        size = (folder / file).stat().st_size / files.MEGABYTE
        cli.say(
            f"{file}: {size:,.1f} MB, largest difference of logits {difference:.1e} (of logits up to {largest:.1f})"
        )
    return written
