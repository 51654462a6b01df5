"""Measure masked language models on a held-out text: bits per character, words filled in, lines that follow, tokens.

Reads a text with one sentence a line and model folders or checkpoints; writes one JSON object on standard output. The
bits per character compare models with other tokenizers too; bert_ja/text_measures.py says what each measure is:

    python3 evaluate_text.py model --text_file data/test.txt > text_result.json
"""

import contextlib
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, encoding, files, model_folder, text_questions

STAGE = "evaluate_text.py"
MADE_BY = "make it with get_jawiki.sh or prepare_corpus.py, or name another --text_file"


def check(models: list[str], text_file: str, max_sentences: int | None, batch_tokens: int | None) -> Path:
    """The text. Raises StageError for whatever can be told before any model is loaded."""
    cli.require(
        {
            f"--max_sentences must be 1 or more, got {max_sentences}": max_sentences is None or max_sentences > 0,
            f"--batch_tokens must be 1 or more, got {batch_tokens}": batch_tokens is None or batch_tokens > 0,
        }
    )
    for model in models:
        model_folder.require(model)
    return files.require_text(text_file, MADE_BY)


def measure(model: str, sentences: list, pairs: list, device, precision: str, batch_tokens: int | None, private: bool):
    """(what is known of a model, its measures)."""
    from bert_ja import scoring, text_measures

    with model_folder.opened(model) as measured:
        loaded = scoring.MaskedModel(measured, device, precision, batch_tokens, private)
        if loaded.no_second_task or not pairs:
            cli.say(f"nsp_accuracy is null: {loaded.no_second_task or 'the text has no lines that can be paired'}")
        with tqdm(total=len(sentences), unit=" sentences", desc=measured.name, delay=1) as bar:
            return measured, text_measures.measure(loaded, sentences, pairs, bar.update)


def record_of(models: list[model_folder.Measured], text: Path, corpus: dict) -> dict:
    """What the record says of the models and the text; of several models no tokenizer and no steps."""
    known = [measured.record for measured in models]
    only = known[0] if len(known) == 1 else {}
    earlier = [record for one in known for record in one.get("history", [])]
    return {
        "stage": STAGE,
        "versions": files.versions("torch", "transformers", "tokenizers", *encoding.ANALYSER),
        "tokenizer": only.get("tokenizer"),
        "corpus": corpus | {"private": corpus["private"] or any(measured.private for measured in models)},
        "steps": only.get("steps"),
        "history": files.each_once([*earlier, *files.history(text)]),
    }


def main(
    *models: str,
    text_file: str = "data/test.txt",
    max_sentences: int | None = 1000,
    seed: int = 1000,
    accelerator: str = "auto",
    precision: str = "fp32",
    batch_tokens: int | None = None,
) -> None:
    """Measure masked language models on a text.

    Args:
        models: Model folders, checkpoint files, run folders, best or last; the folder model where none is named. One
            prints its result, several print one object that holds all of theirs.
        text_file: Text with one sentence a line that the models were not trained on.
        max_sentences: Sentences to draw from the text, and pairs of lines; none for all of them.
        seed: What is drawn depends on it and on the text alone, never on the model.
        accelerator: Device to use, auto for a GPU where there is one, or cpu, or cuda.
        precision: What the model computes in, fp32, or bf16 or fp16, which are faster and round more (fp16 on a GPU).
        batch_tokens: Tokens a batch; changes speed and memory, not the result.
    """
    models = models or ("model",)
    text = check(list(models), text_file, max_sentences, batch_tokens)
    corpus = files.corpus_of(text)
    analyser = encoding.Analyser(STAGE)
    from bert_ja import devices, scoring, training

    training.quiet_start()
    training.quiet_loading()
    device = scoring.choose_device(accelerator, precision)
    starts = text_questions.document_starts(text)
    described, began = files.describe(text), time.monotonic()
    with files.standard_output(may_append=True) as out, contextlib.redirect_stdout(sys.stderr):
        sentences = text_questions.draw_sentences(text, starts, max_sentences, seed, analyser)
        pairs = text_questions.draw_pairs(text, starts, max_sentences, seed)
        found = [
            measure(model, sentences, pairs, device, precision, batch_tokens, corpus["private"]) for model in models
        ]
        drawn = {"drawn_sentences": len(sentences), "seed": seed}
        facts = {**described, "corpus": corpus["name"], "private": corpus["private"], **drawn}
        results = [{"model": measured.facts(), "text": facts, **measures} for measured, measures in found]
        out.write(json.dumps(results[0] if len(results) == 1 else {"results": results}).encode() + b"\n")
    if out.path is not None:
        options = {"max_sentences": max_sentences, "precision": precision}
        record = record_of([measured for measured, _ in found], text, corpus) | {
            "options": options,
            "seed": seed,
            "inputs": [*(measured.weights for measured, _ in found), described],
            "outputs": [out.describe()],
            "run": files.run_facts(models=" ".join(models), text_file=text) | {"device": devices.name_of(device)},
        }
        files.write_record(out.path, record)
    cli.say(
        f"measured {len(models)} model{'s' * (len(models) > 1)} on {len(sentences):,} of {starts[-1]:,} sentences of "
        f"{text} in {time.monotonic() - began:,.1f} s ({devices.name_of(device)}, {precision})"
    )


if __name__ == "__main__":
    cli.run(main)
