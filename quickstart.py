"""Every stage on the sample dump, in the folder quickstart/, and an honest look at what a model of a minute can do.

Reads data/sample/ and configs/tiny.yaml; writes below quickstart/ only, with the default paths of every stage:

    make quickstart
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bert_ja import cli, draws, files

ROOT = Path(__file__).resolve().parent
WORK = ROOT / "quickstart"
NAME = "bert-tiny-ja"
CONFIG = "../configs/tiny.yaml"
SENTENCES = 50  # in which one word is hidden
PROMPTS = ("日本の[MASK]は、古くから人々に親しまれてきた。",)

PREPARE = "python3 ../prepare_train_data.py --filename data/{0}.txt --get_raw {1} > data/{0}.jsonl"
STAGES = (
    "bash ../get_jawiki.sh ../data/sample/jawiki-sample-pages-articles.xml --valid_sentences 150 --test_sentences 150 "
    "--name 'bert-ja sample' --license CC0-1.0 --source 'written for bert-ja'",
    "python3 ../train_tokenizer.py --train_file data/train.txt --vocab_size 3000",
    PREPARE.format("train", False),
    PREPARE.format("valid", True),
    PREPARE.format("test", True),
    f"python3 ../trainer.py --config {CONFIG}",
    f"python3 ../test.py --config {CONFIG} --ckpt_path best > test_result.json",
    f"python3 ../test.py --config {CONFIG} --ckpt_path best --test_file data/valid.jsonl > valid_result.json",
    f"python3 ../export_model.py --config {CONFIG} --ckpt_path best --output_dir model",
    "python3 ../convert_tokenizer.py --spm_model output/spm/sp.model --output_dir model",
    f"python3 ../release_model.py --name {NAME}",
)


def run_stage(command: str) -> dict:
    """Run one command as a user would type it, in quickstart/; what it cost."""
    cli.say(f"\n$ {command}")
    started = time.time()
    typed = command.replace("python3 ", shlex.quote(sys.executable) + " ", 1)
    process = subprocess.Popen(["bash", "-c", typed], cwd=WORK, env={**os.environ, "PYTHON": sys.executable})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise cli.StageError(f"the command above ended with exit code {process.returncode}")
    return {
        "command": command,
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_megabytes": round(usage.ru_maxrss * 1024 / 1e6),
    }


def machine() -> dict:
    """What the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0))}


def hidden_words(tokenizer) -> list[tuple[list[int], int]]:
    """(ids, position to hide) of SENTENCES sentences, evenly spread over the training text."""
    lines = [line for line in (WORK / "data/train.txt").read_text(encoding="utf-8").split("\n") if len(line) >= 10]
    chosen = lines[:: len(lines) // SENTENCES][:SENTENCES]
    encoded = [tokenizer(line, truncation=True)["input_ids"] for line in chosen]
    places = draws.uniform(draws.key("hidden words"), range(len(encoded)))
    return [(ids, 1 + int(place * (len(ids) - 2))) for ids, place in zip(encoded, places, strict=True)]


def mean_rank(model, tokenizer, hidden: list[tuple[list[int], int]]) -> float:
    """Where the hidden word stands, on average, in the model's ranking of the vocabulary; 1 is a perfect model."""
    import torch

    ranks = []
    for ids, position in hidden:
        masked = torch.tensor([ids])
        masked[0, position] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model.eval()(masked).logits[0, position]
        ranks.append(1 + int((logits > logits[ids[position]]).sum()))
    return sum(ranks) / len(ranks)


def report(folder: Path) -> None:
    """What the model has learned, then its predictions: the only lines on standard output."""
    import torch
    import transformers

    from bert_ja import training

    training.quiet_loading()
    valid = json.loads((WORK / "valid_result.json").read_text())
    released = json.loads((WORK / "model/meta.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    after = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(0)
    before = transformers.AutoModelForMaskedLM.from_config(after.config)
    hidden = hidden_words(tokenizer)
    print(
        f"\nvalidation MLM loss {valid['mlm_loss']:.3f}, unigram entropy {released['training']['unigram_entropy']:.3f} "
        "nats (what knowing only the frequency of each token would reach)"
    )
    print(
        f"mean rank of the hidden word in {SENTENCES} training sentences, of {after.config.vocab_size:,}: "
        f"{mean_rank(before, tokenizer, hidden):.0f} before training, {mean_rank(after, tokenizer, hidden):.0f} after"
    )
    print("It saw a few dozen articles for a minute: expect frequent words that fit the grammar, not knowledge.")
    fill_mask = transformers.pipeline("fill-mask", model=after, tokenizer=tokenizer)
    for prompt in PROMPTS:
        print(prompt)
        for prediction in fill_mask(prompt):
            print(f"{prediction['token_str']} {prediction['score']:.4f}")


def main(costs_file: str | None = None) -> None:
    """Run every stage on the sample dump below quickstart/.

    Args:
        costs_file: File to write what each stage cost: seconds, CPU seconds, peak memory of its largest process.
    """
    WORK.mkdir(exist_ok=True)
    costs = [run_stage(command) for command in STAGES]
    if costs_file is not None:
        files.write_bytes(costs_file, (json.dumps({**machine(), "stages": costs}, indent=1) + "\n").encode())
    report(WORK / "release" / NAME)


if __name__ == "__main__":
    cli.run(main)
