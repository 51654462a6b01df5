"""Stage 2: a text to a SentencePiece model and a tokenizer folder that transformers loads, proven to agree.

Reads a text (one sentence a line); writes output/spm/ (sp.model, sp.vocab) and output/model/ (spm.model,
tokenizer.json, tokenizer_config.json). Both appear only after AutoTokenizer gave SentencePiece's ids on 10,000 lines:

    python3 train_tokenizer.py --train_file data/train.txt --input_sentence_size 1000000
"""

import time
from collections.abc import Iterator
from pathlib import Path

from bert_ja import cli, files, hard_lines, parity, tokenization

STAGE = "train_tokenizer.py"
NAME_A_TEXT = "run get_jawiki.sh first, or pass --train_file with a text of one sentence a line"
SMALLEST_VOCABULARY = len(tokenization.PIECES) + 2  # the special pieces, ▁ and one more
PARITY_LINES = 10_000  # of the text; the adversarial ones come on top


def check(
    train_file: str,
    input_sentence_size: int,
    vocab_size: int,
    spm_model_dir: str,
    model_dir: str,
    character_coverage: float,
) -> tuple[Path, Path, Path]:
    """Refuse what cannot work; the text and the two folders to write."""
    spm_folder, model_folder = Path(spm_model_dir), Path(model_dir)
    spm_place, model_place = spm_folder.resolve(), model_folder.resolve()
    apart = not (spm_place.is_relative_to(model_place) or model_place.is_relative_to(spm_place))
    cli.require(
        {
            f"--input_sentence_size must be 1 or more, got {input_sentence_size}": input_sentence_size >= 1,
            f"--vocab_size must be {SMALLEST_VOCABULARY} or more, got {vocab_size}": vocab_size >= SMALLEST_VOCABULARY,
            f"--character_coverage must be from 0.98 to 1, got {character_coverage}": 0.98 <= character_coverage <= 1,
            f"--spm_model_dir {spm_folder} and --model_dir {model_folder} must be two folders, "
            "neither inside the other": apart,
        }
    )
    text = files.require_file(train_file, NAME_A_TEXT)
    if not text.is_file():
        raise cli.StageError(f"{text} is not a regular file, and the text is read twice: save it to a file first")
    files.require_text(text, NAME_A_TEXT)
    files.require_replaceable(spm_folder, STAGE)
    files.require_replaceable(model_folder, STAGE)
    for folder in (spm_folder, model_folder):  # often on one disk; each is made beside itself
        files.require_space(
            files.behind_link(folder).parent, 2 * tokenization.folder_bytes(vocab_size), "the tokenizer"
        )
    return text, spm_folder, model_folder


def count(text: Path) -> tokenization.LineCounts:
    """Count the lines of a text, and say what training leaves out."""
    lines = tokenization.count_lines(text)
    if lines.eligible == 0:
        raise cli.StageError(f"{text} has no line to train on, all are blank or too long: {NAME_A_TEXT}")
    if lines.too_long:
        cli.say(f"warning: {lines.too_long:,} lines are over {tokenization.MAX_LINE_BYTES:,} bytes: not drawn from")
    if lines.reserved:
        cli.say(
            f"warning: {lines.reserved:,} lines hold U+2585 or a zero byte, reserved by SentencePiece: not drawn from"
        )
    return lines


def verify(folder: Path, text: Path, sample: Iterator[str], model: bytes, private: bool) -> parity.Parity:
    """AutoTokenizer of `folder` against SentencePiece, on our own lines and a sample of the text."""
    spm = tokenization.load_model(model)
    found = parity.check_parity(folder, hard_lines.ADVERSARIAL_LINES, spm, "our own list", private)
    parity.require_parity(found, folder)  # before the sample, each of whose lines would be searched for a cause
    found += parity.check_parity(folder, sample, spm, f"the sample of {text}", private)
    parity.require_parity(found, folder)
    return found


def main(
    train_file: str,
    input_sentence_size: int = 1_000_000,
    vocab_size: int = 32_000,
    spm_model_dir: str = "output/spm",
    model_dir: str = "output/model",
    seed: int = 1000,
    character_coverage: float = 0.9995,
    private_corpus: bool | None = None,
) -> None:
    """Train a SentencePiece model and build the tokenizer folder that transformers loads.

    Args:
        train_file: Text with one sentence a line; blank lines are skipped.
        input_sentence_size: Sentences to train on, drawn evenly from the whole text; all of them when it has fewer.
            A million take about 2 GB of memory.
        vocab_size: Pieces in the vocabulary, the five special ones included. It sets the size of the model's embedding.
        spm_model_dir: Folder for sp.model and sp.vocab, replaced when it holds nothing else.
        model_dir: Folder for the tokenizer that the next stages and transformers read, replaced when it holds nothing
            else.
        seed: Decides which sentences are drawn; the same seed gives the same bytes.
        character_coverage: Share of the text's characters that get a piece; the rarest of the rest become <unk>.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the record of the text says.
    """
    started = time.time()
    text, spm_folder, model_folder = check(
        train_file, input_sentence_size, vocab_size, spm_model_dir, model_dir, character_coverage
    )
    corpus = files.corpus_of(text, private=private_corpus)
    lines = count(text)
    size = min(input_sentence_size, lines.eligible)
    cli.say(f"training {vocab_size:,} pieces on {size:,} of {lines.eligible:,} sentences")
    drawn = tokenization.draw_lines(text, lines.eligible, size, seed, "sentencepiece")
    model = tokenization.train_sentencepiece(drawn, vocab_size, character_coverage)

    with (
        files.output_folder(model_folder, STAGE) as model_partial,
        files.output_folder(spm_folder, STAGE) as spm_partial,
    ):
        files.write_bytes(spm_partial / "sp.model", model)
        files.write_bytes(spm_partial / "sp.vocab", tokenization.vocab_text(model).encode())
        tokenization.write_tokenizer_folder(model, model_partial)
        sample = tokenization.draw_lines(text, lines.eligible, PARITY_LINES, seed, "parity")
        found = verify(model_partial, text, sample, model, corpus["private"])
        record = {
            "stage": STAGE,
            "options": {
                "input_sentence_size": input_sentence_size,
                "vocab_size": vocab_size,
                "character_coverage": character_coverage,
            },
            "seed": seed,
            "versions": files.versions("sentencepiece", "tokenizers", "transformers"),
            "inputs": [files.describe(text)],
            "counts": {"drawn": size, **vars(lines)},
            "tokenizer": tokenization.tokenizer_facts(model_partial),
            "parity": found.record(),
            "corpus": corpus,
            "history": files.history(text),
            "run": files.run_facts(train_file=text, spm_model_dir=spm_folder, model_dir=model_folder),
        }
        for folder in (spm_partial, model_partial):
            files.write_record(folder, record | {"outputs": files.describe_folder(folder)})
    cli.say(
        f"wrote {vocab_size:,} pieces from {size:,} sentences to {spm_folder} and {model_folder}, "
        f"same ids by AutoTokenizer on {found.lines:,} lines, in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
