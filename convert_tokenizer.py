"""Stage 7: the SentencePiece model to the tokenizer files of a model folder, built anew and verified.

Reads output/spm/sp.model; writes spm.model, tokenizer.json, tokenizer_config.json and tokenizer.meta.json into the
folder of export_model.py and touches nothing else there. What is there already must be the same bytes:

    python3 convert_tokenizer.py --spm_model output/spm/sp.model --output_dir model

--check_only True only compares a folder on any text: a JSON report on stdout, exit code 2 on a difference.
"""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, files, hard_lines, parity, tokenization

SPM_MODEL = "output/spm/sp.model"
TRAINING_TEXT = Path("data/train.txt")
SAMPLE_LINES, SAMPLE_SEED = 10_000, 1000  # of the training text, when no text is named
LAYOUTS = {tokenization.FAST: tokenization.FOLDER_FILES, tokenization.DEBERTA: tokenization.PUBLISHED_FILES}
CHECK_THERE = "check it with make .venv-compat, then .venv-compat/bin/python convert_tokenizer.py --check_only True"
RECORD = files.TOKENIZER_RECORD  # meta.json is export_model.py's
NAME_A_TEXT = "pass --text_file with a text of one sentence a line"


def read_config(folder: Path) -> dict:
    """The model's config.json, empty where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise cli.StageError(f"{path} is damaged (not a JSON object): run export_model.py again")
    return config


def require_ours(folder: Path) -> None:
    """Refuse a folder of export_model.py whose tokenizer is another's, copied and compared by it."""
    record = files.read_record(folder) if folder.is_dir() else None
    if ((record or {}).get("gate") or {}).get("copied_tokenizer"):
        raise cli.StageError(
            f"{folder} has the tokenizer files of the model that it continues, and export_model.py compared them: "
            "convert_tokenizer.py is not needed, run release_model.py"
        )


def require_same_vocabulary(folder: Path, config: dict, spm_model: Path, vocab_size: int) -> None:
    """Refuse a tokenizer of another size than the model's; one that was exported may have more rows than pieces."""
    expected, exported = config.get("vocab_size", vocab_size), files.read_record(folder) if folder.is_dir() else None
    pieces = ((exported or {}).get("tokenizer") or {}).get("vocab_size", expected)
    if vocab_size not in (expected, pieces):
        raise cli.StageError(
            f"{folder / 'config.json'} has vocab_size {expected}, {spm_model} has {vocab_size} pieces: "
            "pass the --spm_model that this model was trained with"
        )


def own_length(config_text: bytes) -> int | None:
    """The model_max_length of a tokenizer_config.json."""
    try:
        length = json.loads(config_text)["model_max_length"]
    except (ValueError, KeyError, TypeError):
        return None
    return length if isinstance(length, int) else None


def with_length(config_text: bytes, length: int) -> dict:
    """A tokenizer_config.json with another model_max_length."""
    return json.loads(config_text) | {"model_max_length": length}


def require_same_bytes(folder: Path, spm_model: Path, built: dict[str, bytes]) -> None:
    """Refuse to overwrite a tokenizer file with another; tokenizer_config.json may differ in model_max_length alone."""
    for name, content in built.items():
        path = folder / name
        found = path.read_bytes() if path.is_file() else content
        if found == content:
            continue
        length = own_length(found) if name == tokenization.CONFIG_FILE else None
        if length is None or with_length(content, length) != json.loads(found):
            raise cli.StageError(
                f"{path} is not what {spm_model} gives: pass the --spm_model that this model was trained with, "
                f"or move {name} away to have it built anew"
            )
        cli.say(f"{path}: model_max_length {length} is replaced by {own_length(content)}, the model's positions")


def text_lines(text: Path | None) -> tuple[Iterable[str], str]:
    """The lines to compare beside our own list, and what they are: all of a text, or a sample of the training text."""
    if text is not None:
        return tokenization.read_lines(text), str(text)
    eligible = tokenization.count_lines(TRAINING_TEXT).eligible
    sample = tokenization.draw_lines(TRAINING_TEXT, eligible, SAMPLE_LINES, SAMPLE_SEED, "parity")
    return sample, f"the sample of {TRAINING_TEXT}"


def compare(
    folder: Path, model: bytes, text: Path | None, private: bool, slow: bool = False, written=None
) -> tuple[parity.Parity, parity.Parity]:
    """AutoTokenizer of `folder` against SentencePiece, on our own list and on the text; what was found on each."""
    spm = tokenization.load_model(model)
    own = parity.check_parity(folder, hard_lines.ADVERSARIAL_LINES, spm, "our own list", private, slow, written)
    if text is None and not TRAINING_TEXT.is_file():
        cli.say(f"{TRAINING_TEXT} not found: only our own list is compared (pass --text_file to compare more)")
        return own, parity.Parity()
    lines, source = text_lines(text)
    lines = tqdm(lines, unit=" lines", unit_scale=True, desc="comparing", mininterval=1)
    return own, parity.check_parity(folder, lines, spm, source, private, slow, written)


def verify(folder: Path, model: bytes, built: dict[str, bytes], text: Path | None, private: bool) -> parity.Parity:
    """Compare the files to be written, beside what else AutoTokenizer would read in `folder`, before they get there."""
    slow = tokenization.JSON_FILE not in built
    with files.work_folder(folder) as work:
        for path in sorted(folder.glob("*.json")):
            shutil.copyfile(path, work / path.name)
        for name, content in built.items():
            (work / name).write_bytes(content)
        own, found = compare(work, model, text, private, slow)
    parity.require_parity(own + found, folder)
    return own + found


def reads_slow() -> bool:
    """Whether this transformers still has slow tokenizers; 5 ignores use_fast=False."""
    return int(files.versions("transformers")["transformers"].split(".")[0]) < 5


def is_published(folder: Path) -> bool:
    """Whether a folder has the layout of the published model, for slow tokenizers."""
    return (
        tokenization.tokenizer_class(folder) == tokenization.DEBERTA and not (folder / tokenization.JSON_FILE).exists()
    )


def report(
    folder: Path, spm_model: Path, model: bytes, text: Path | None, private: bool, encodings: Path | None
) -> None:
    """Print the comparison of a folder as JSON; raise StageError on a difference."""
    rows: list[str] = []
    written = rows.append if encodings else None
    own, found = compare(folder, model, text, private, is_published(folder), written)
    filled = None
    if (folder / "model.safetensors").is_file() and not is_published(folder):
        filled = parity.check_fill_mask(folder, tokenization.load_model(model), private, written)
    facts, both = tokenization.tokenizer_facts(spm_model), own + found
    said = {"folder": str(folder), "tokenizer": facts, "versions": files.versions("transformers", "tokenizers")}
    said |= {**both.record(), "first_difference": both.first, "text": found.record(), "fill_mask": filled}
    print(json.dumps(said, ensure_ascii=False, indent=1))
    if encodings:
        files.write_bytes(encodings, "".join(f"{row}\n" for row in rows).encode())
    parity.require_parity(both, folder)


def require_kind(folder: Path, kind: str, check_only: bool) -> None:
    """Refuse what the layout of the published model does not allow."""
    if check_only and is_published(folder) and not reads_slow():
        raise cli.StageError(f"{folder} is for transformers 4 only ({tokenization.DEBERTA_WARNING}): {CHECK_THERE}")
    if not check_only and kind == tokenization.DEBERTA and (folder / tokenization.JSON_FILE).exists():
        raise cli.StageError(
            f"{folder} has a {tokenization.JSON_FILE}, which the published layout has not: name another --output_dir"
        )


def build(model: bytes, kind: str, length: int) -> dict[str, bytes]:
    """The files of a layout by name; `length` is the model's longest sample in tokens."""
    if kind == tokenization.DEBERTA:
        return tokenization.published_files(model, length)
    return tokenization.folder_files(model, length)


def convert(
    folder: Path, spm_model: Path, model: bytes, text: Path | None, private: bool, kind: str = tokenization.FAST
) -> parity.Parity | None:
    """Build, verify and write the tokenizer files of a model folder, and their record."""
    config = read_config(folder)
    facts = tokenization.tokenizer_facts(spm_model)
    require_same_vocabulary(folder, config, spm_model, facts["vocab_size"])
    files.require_space(folder, 2 * tokenization.folder_bytes(facts["vocab_size"]), "the tokenizer")  # work folder too
    built = build(model, kind, config.get("max_position_embeddings", 512))
    require_same_bytes(folder, spm_model, built)
    verified = kind != tokenization.DEBERTA or reads_slow()
    found = verify(folder, model, built, text, private) if verified else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    for name, content in built.items():
        files.write_bytes(folder / name, content)
    record = {
        "stage": "convert_tokenizer.py",
        "versions": files.versions("sentencepiece", "tokenizers", "transformers"),
        "inputs": [files.describe(spm_model)],
        "outputs": [files.describe(folder / name) for name in built],
        "tokenizer": facts,
        "tokenizer_class": kind,
        "parity": found.record() if found else None,
        "corpus": files.corpus_facts(files.read_record(spm_model.parent), private),
        "history": files.history(spm_model.parent),
        "run": files.run_facts(spm_model=spm_model, output_dir=folder, text_file=text),
    }
    if kind == tokenization.DEBERTA:
        record["warning"] = tokenization.DEBERTA_WARNING
    files.write_record(folder, record, RECORD)
    return found


def main(
    spm_model: str | None = None,
    output_dir: str = "model",
    text_file: str | None = None,
    check_only: bool = False,
    private_corpus: bool | None = None,
    tokenizer_class: str = tokenization.FAST,
    encodings_file: str | None = None,
) -> None:
    """Build the tokenizer files of a model folder from its SentencePiece model, or check those that are there.

    Args:
        spm_model: SentencePiece model to build from, output/spm/sp.model unless named; with --check_only the one to
            compare with, the folder's own spm.model unless named.
        output_dir: Model folder to write the files into, made when absent; its config.json decides on
            model_max_length. With --check_only the folder to check.
        text_file: Text whose every line is compared; unless named, 10,000 lines of data/train.txt where that is. Our
            own list of hard lines is always compared.
        check_only: Write nothing, compare, and print a JSON report.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the record of the text, of the tokenizer or of the model folder says.
        tokenizer_class: PreTrainedTokenizerFast, which works in transformers 4.57 and 5 alike, or DebertaV2Tokenizer,
            the layout of the published model, which works in transformers 4 with use_fast=False only.
        encodings_file: With --check_only, file to write a digest of each encoding to, a line each: two environments
            that tokenize alike write the same file.
    """
    started = time.time()
    folder, text = Path(output_dir), Path(text_file) if text_file else None
    if folder.exists() and not folder.is_dir():
        raise cli.StageError(f"{folder} is a file, --output_dir needs a model folder")
    if check_only and not folder.is_dir():
        raise cli.StageError(f"{folder} not found: pass --output_dir with the tokenizer or model folder to check")
    cli.require(
        {
            f"--tokenizer_class must be {' or '.join(LAYOUTS)}, got {tokenizer_class!r}": tokenizer_class in LAYOUTS,
            "--encodings_file needs --check_only True": check_only or encodings_file is None,
        }
    )
    require_ours(folder)
    source = tokenization.model_path(spm_model or (folder if check_only else SPM_MODEL))
    model = tokenization.read_model(source)
    if text is not None:
        files.require_text(text, NAME_A_TEXT)
    private = files.is_private(source.parent, folder, text or TRAINING_TEXT, asked=private_corpus)
    require_kind(folder, tokenizer_class, check_only)
    if check_only:
        report(folder, source, model, text, private, Path(encodings_file) if encodings_file else None)
        return
    found = convert(folder, source, model, text, private, tokenizer_class)
    said = f"same ids by AutoTokenizer on {found.lines:,} lines" if found else "not compared"
    names = ", ".join(LAYOUTS[tokenizer_class])
    cli.say(f"wrote {names} to {folder}, {said}, in {time.time() - started:.0f} s")
    if tokenizer_class == tokenization.DEBERTA:
        cli.say(f"warning: {tokenization.DEBERTA_WARNING}{'' if found else f'; {CHECK_THERE}'}")


if __name__ == "__main__":
    cli.run(main)
