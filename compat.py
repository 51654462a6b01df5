"""The tokenizer in transformers 5 (this environment) and 4.57 (.venv-compat): equal, and equal to SentencePiece.

Trains a small tokenizer on real lines, has convert_tokenizer.py --check_only compare it with SentencePiece in both
environments, on real lines and on odd ones made of them, and compares what the two wrote. Writes below compat/:

    make compat
"""

import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bert_ja import cli, files, hard_lines, tokenization

ROOT = Path(__file__).resolve().parent
SHARED = ROOT.parent / "shared" / "data" / "text"  # a developer's real texts
SAMPLE = ROOT / "data" / "sample" / "jawiki-sample-pages-articles.xml"
TRAINING_LINES, PUBLISHED_LINES, SEED = 20_000, 5_000, 0
COVERAGE = 0.995  # of the characters: the rare kanji of real lines alone would be more than 3,000 pieces
CHECK = "convert_tokenizer.py"


def unpack(source: Path, target: Path) -> None:
    """All texts of a folder, one after the other, as one."""
    with open(target, "wb") as file:
        for path in sorted(source.glob("*.txt.xz")):
            file.write(lzma.decompress(path.read_bytes()).rstrip(b"\n") + b"\n")


def find_text(text_file: str | None, work: Path) -> Path:
    """The text to compare on: the user's, else the developer's real texts, else that of the sample dump."""
    if text_file is not None:
        return files.require_text(text_file, "pass --text_file with a text of one sentence a line")
    if SHARED.is_dir():
        unpack(SHARED, work / "shared.txt")
        return work / "shared.txt"
    command = [sys.executable, str(ROOT / "extract_jawiki.py"), str(SAMPLE), "--output_file", str(work / "sample.txt")]
    subprocess.run(command, check=True)
    return work / "sample.txt"


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def write_model(folder: Path, model: bytes, vocab_size: int) -> None:
    """A BERT of random weights with this tokenizer: pipeline("fill-mask") needs one, whatever it has learned."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=vocab_size, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenization.write_tokenizer_folder(model, folder)


def check(python: str, folder: Path, text: Path, encodings: Path) -> dict:
    """The report of one comparison of a folder with SentencePiece; raises StageError on a difference."""
    command = [python, ROOT / CHECK, "--check_only", "True", "--output_dir", folder, "--text_file", text]
    done = subprocess.run([*command, "--encodings_file", encodings], capture_output=True, text=True)
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise cli.StageError(f"{encodings.stem}: ended by {ended}, for want of memory perhaps: run it again")
    if done.returncode:
        raise cli.StageError(f"{encodings.stem}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    report = json.loads(done.stdout)
    found, versions = report["text"], report["versions"]
    counts = ", ".join(f"{found[key]:,} {key}" for key in ("lines", "with_mask", "pairs", "truncated", "alone"))
    kinds = "; ".join(f"{count:,} times {kind}" for kind, count in found["known_differences"].items())
    cli.say(
        f"{encodings.stem} (transformers {versions['transformers']}, tokenizers {versions['tokenizers']}): {counts}, "
        f"{report['fill_mask'] or 0} fill-mask: 0 differences, known ones: {kinds or 'none'}"
    )
    return report


def check_all(work: Path, other_python: str, texts: dict[str, Path]) -> dict[str, dict]:
    """The reports of all comparisons by name: as many at once as there are cores."""
    jobs = {}
    for kind in ("real", "odd"):
        jobs[f"{kind} lines, here"] = (sys.executable, work / "model", texts[kind])
        jobs[f"{kind} lines, there"] = (other_python, work / "model", texts[kind])
    jobs["published layout, there"] = (other_python, work / "published", texts["some"])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = {name: pool.submit(check, *job, work / f"{name}.txt") for name, job in jobs.items()}
        return {name: future.result() for name, future in running.items()}


def require_equal(one: Path, other: Path) -> int:
    """How many encodings two comparisons wrote down; raises StageError with the first that is not the same in both."""
    ours, theirs = (path.read_text(encoding="utf-8").splitlines() for path in (one, other))
    for row, same in zip(ours, theirs, strict=True):
        if row != same:
            raise cli.StageError(f"{one.stem} and {other.stem} differ first at {row.rpartition(':')[0]}")
    return len(ours)


def main(
    text_file: str | None = None,
    lines: int = 100_000,
    odd_lines: int = 50_000,
    vocab_size: int = 3000,
    other_python: str = ".venv-compat/bin/python",
    output_dir: str = "compat",
) -> None:
    """Compare a tokenizer in two environments with SentencePiece and with each other.

    Args:
        text_file: Text with one sentence a line; unless named, ../shared/data/text where that is, else that of the
            sample dump.
        lines: Lines of the text that are compared, drawn evenly; all of them when it has fewer.
        odd_lines: Lines recombined from these with odd characters, compared as well.
        vocab_size: Pieces of the tokenizer that is trained on the first 20,000 of these lines.
        other_python: Interpreter of the other environment, which make .venv-compat builds.
        output_dir: Folder to work in.
    """
    started = time.time()
    other_python = os.path.abspath(other_python)  # not resolved: the link is what makes it that environment's
    if not Path(other_python).is_file():
        raise cli.StageError(f"{other_python} not found: run make .venv-compat first, or pass --other_python")
    work = Path(output_dir)
    work.mkdir(parents=True, exist_ok=True)
    text = find_text(text_file, work)
    eligible = tokenization.count_lines(text).eligible
    real = list(tokenization.draw_lines(text, eligible, lines, SEED, "compat"))
    some = real[:: -(-len(real) // TRAINING_LINES)]
    odd = hard_lines.odd_lines(real, odd_lines, SEED)
    texts = {"real": real, "odd": odd, "some": some[:PUBLISHED_LINES]}
    texts = {kind: write_lines(work / f"{kind}.txt", chosen) for kind, chosen in texts.items()}
    cli.say(f"comparing on {len(real):,} lines of {text} and {odd_lines:,} odd ones made of them")
    model = tokenization.train_sentencepiece(some, vocab_size, COVERAGE)
    write_model(work / "model", model, vocab_size)
    for name, content in tokenization.published_files(model).items():
        files.write_bytes(work / "published" / name, content)

    reports = check_all(work, other_python, texts)
    known = [name for name in reports if name.startswith("real") and reports[name]["text"]["known_differences"]]
    if known and text_file is None:  # a user's text may quote <unk>; ours do not
        raise cli.StageError(f"{known[0]}: there are differences on real lines, if of known kinds (see above)")
    pairs = ([work / f"{kind} lines, {place}.txt" for place in ("here", "there")] for kind in ("real", "odd"))
    equal = sum(require_equal(*pair) for pair in pairs)
    cli.say(f"the same {equal:,} encodings and predictions in both environments, in {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.run(main)
