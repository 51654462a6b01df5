"""Results of the evaluations, made by hand in the form in which evaluate_jglue.py and evaluate_text.py leave them."""

import json
from pathlib import Path

import texts

from bert_ja import files, results
from bert_ja.scores import summary

SETTING = {
    **{"learning_rate": 5e-05, "epochs": 4, "batch_size": 32, "warmup_ratio": 0.1, "weight_decay": 0.0},
    **{"dropout": 0.1, "max_length": 128},
}
MEASURES = {
    "bits_per_character": 3.5,
    "pseudo_perplexity_per_character": 11.313708498984761,
    "bits_per_character_single_masks": 3.25,
    "fill_mask_accuracy_at_1": 0.25,
    "fill_mask_accuracy_at_5": 0.5,
    "fill_mask_content_accuracy_at_1": 0.125,
    "fill_mask_content_accuracy_at_5": 0.375,
    "fill_mask_words": 4096,
    "fill_mask_content_words": 2048,
    "nsp_accuracy": 0.75,
    "nsp_pairs": 900,
    "characters_per_token": 1.75,
    "unknown_rate": 0.001,
    "whole_word_rate": 0.625,
    "word_border_rate": 0.9375,
    "sentences": 1234,
    "characters": 45678,
    "tokens": 26101,
    "too_long": 2,
}
TEXT_FILE = {"name": "test.txt", "size": 137034, "sha256": "7e" * 32}
DRAWN = {"corpus": "aozora", "private": False, "drawn_sentences": 1236, "seed": 1000}
CORPUS = {"name": "aozora", "license": "public domain", "source": "https://www.aozora.gr.jp/", "private": False}


def model(sha256: str, name: str = "model", steps: int | None = 7, tokens: int | None = 4480) -> dict:
    """What a result says of the model."""
    weights = {"name": "model.safetensors", "size": 1, "sha256": sha256}
    return {"name": name, "weights": weights, "steps": steps, "tokens": tokens}


def jglue(measured: dict, pearson: tuple = (0.875, 0.88, 0.885), **changes) -> dict:
    """jglue.json of two tasks, one with scores on test, the other with answers that are out of reach."""
    tried = [
        SETTING | {"valid": {"pearson": 0.88, "spearman": 0.84}},
        {"learning_rate": 0.0001, "epochs": 4, "valid": {}},
    ]
    spearman = [value - 0.05 for value in pearson]
    jsts = {
        **{"title": "JSTS", "version": "v1.3", "setting": SETTING, "tried": tried},
        **{"examples": {"train": 12451, "valid": 1457, "test": 1589}, "cut": {"train": 3, "valid": 1}},
        "scores": {
            "pearson": {"valid": summary(pearson), "test": summary([value - 0.01 for value in pearson])},
            "spearman": {"valid": summary(spearman)},
        },
        "overlap": {part: {"sentences": 2914, "in_training_text": 3} for part in ("train", "valid")},
    }
    jsquad = {
        **{"title": "JSQuAD", "version": "v1.3", "setting": SETTING | {"max_length": 384}, "tried": []},
        **{"examples": {"train": 62697, "valid": 4442}, "cut": {"train": 0}, "overlap": None},
        "scores": {"exact_match": {"valid": summary(pearson)}, "f1": {"valid": summary(spearman)}},
        "unreachable_answers": {"train": 0.01, "valid": 0.0251, "test": None},
    }
    return {
        **{"model": measured, "random_weights": False, "train_split": "train", "seeds": len(pearson)},
        **{"precision": "32-true", "training_text": True, "tasks": {"jsts": jsts, "jsquad": jsquad}},
    } | changes


def text(measured: dict, **changes) -> dict:
    """text_result.json of one model."""
    return MEASURES | {"model": measured, "text": TEXT_FILE | DRAWN} | changes


def write_jglue(folder: Path, content: dict, **changes) -> Path:
    """A folder of evaluate_jglue.py with its record; its jglue.json is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / results.JGLUE_FILE
    files.write_bytes(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    files.write_bytes(folder / "jglue.md", b"| JSTS |\n")
    record = {
        "stage": results.JGLUE,
        "inputs": [content["model"]["weights"]] if isinstance(content.get("model"), dict) else [],
        "outputs": files.describe_folder(folder),
        "corpus": {"private": False},
        "run": files.run_facts(output_dir=folder),
    }
    files.write_record(folder, record | changes)
    return path


def write_text(path: Path, *contents: dict, **changes) -> Path:
    """A file of evaluate_text.py with its record."""
    content = contents[0] if len(contents) == 1 else {"results": list(contents)}
    files.write_bytes(path, json.dumps(content).encode() + b"\n")
    record = {
        "stage": results.TEXT,
        "inputs": [TEXT_FILE],
        "outputs": [files.describe(path)],
        "corpus": CORPUS,
        "run": files.run_facts(text_file=path.parent / "secret" / "test.txt"),
    }
    files.write_record(path, record | changes)
    return path


def write_jsts(folder: Path) -> Path:
    """JSTS of our own sentences: the score is how many of four parts two have in common."""
    (folder / "jsts-v1.3").mkdir(parents=True)
    for number, part in enumerate(("train", "valid")):
        lines = texts.text(60, seed=10 + number).split()
        rows = [
            {"sentence_pair_id": str(at), "sentence1": one, "sentence2": two, "label": 5.0 * (one[:3] == two[:3])}
            for at, (one, two) in enumerate(zip(lines[::2], lines[1::2], strict=False))
        ]
        (folder / "jsts-v1.3" / f"{part}-v1.3.json").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    return folder
