"""What a release is made of: an exported folder, its tokenizer, its results; each with its record, unchanged since."""

from pathlib import Path

from bert_ja import cli, files, hub, licences, model_card, results, tokenization
from bert_ja.results import short

DEFAULT_NAME = "bert-base-ja"
WEIGHTS = ("model.safetensors", "config.json")
NEEDED = (*WEIGHTS, *tokenization.FOLDER_FILES)
WITHOUT_RESULT = "--test_result none"
SCORE_OPTIONS = {results.JGLUE: "--jglue_result", results.TEXT: "--text_result"}


def require_unchanged(folder: Path, record: dict) -> None:
    """Refuse a folder with a file that is no longer what its stage wrote."""
    stage = record["stage"]
    for file in record["outputs"]:
        path = folder / file["name"]
        found = files.sha256(path) if path.is_file() else None
        if found != file["sha256"]:
            raise cli.StageError(
                f"{path} is not the file that {stage} wrote ({short(found) if found else 'missing'}, its record says "
                f"{short(file['sha256'])}): run {stage} again"
            )


def read_tokenizer(folder: Path, model: dict) -> dict | None:
    """The record of convert_tokenizer.py; None where export_model.py copied the tokenizer files and compared them."""
    if (model.get("gate") or {}).get("copied_tokenizer"):
        return None
    tokenizer = files.read_record(folder, files.TOKENIZER_RECORD)
    if tokenizer is None:
        raise cli.StageError(
            f"{folder} has no {files.TOKENIZER_RECORD}, so its tokenizer is not verified: run convert_tokenizer.py "
            f"--spm_model output/spm/sp.model --output_dir {folder} first"
        )
    if tokenizer.get("tokenizer_class", tokenization.FAST) != tokenization.FAST:
        raise cli.StageError(
            f"the tokenizer of {folder} is in the published layout ({tokenization.DEBERTA_WARNING}): run "
            f"convert_tokenizer.py --output_dir {folder} without --tokenizer_class first"
        )
    ours, trained = tokenizer["tokenizer"]["sha256"], model["tokenizer"]["sha256"]
    if ours != trained:
        raise cli.StageError(
            f"the tokenizer of {folder} ({short(ours)}) is not the one that its model was trained with "
            f"({short(trained)}): run convert_tokenizer.py with the sp.model of that run"
        )
    return tokenizer


def read_model(folder: Path) -> tuple[dict, dict | None]:
    """The records of export_model.py and convert_tokenizer.py, after checking every file that they name."""
    model = files.require_record(folder, "export_model.py")
    tokenizer = read_tokenizer(folder, model)
    records = [record for record in (model, tokenizer) if record]
    for record in records:
        require_unchanged(folder, record)
    named = {file["name"] for record in records for file in record["outputs"]}
    if missing := [name for name in (NEEDED if tokenizer else WEIGHTS) if name not in named]:
        raise cli.StageError(f"{folder} has no {missing[0]} in its records: run export_model.py again")
    for path in sorted(folder.iterdir()):
        if path.name not in named and not path.name.endswith("meta.json"):
            cli.say(f"left out, no record names it: {path}")
    return model, tokenizer


def read_test(test_result: str, model: dict, folder: Path) -> tuple[dict, dict]:
    """The result of test.py and its record, if they belong to the checkpoint that was exported."""
    again = f"make it with test.py --ckpt_path ... > {test_result}, or pass {WITHOUT_RESULT}"
    path = files.require_file(test_result, again)
    record = files.require_record(path, "test.py", WITHOUT_RESULT)
    found, said = files.sha256(path), record["outputs"][0]["sha256"]
    if found != said:
        raise cli.StageError(
            f"{path} was changed after test.py wrote it ({short(found)}, its record says {short(said)}): {again}"
        )
    try:
        result = model_card.parse_result(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise cli.StageError(f"{path} is not a result of test.py ({error}): {again}") from None
    tested, exported = record["inputs"][0]["sha256"], model["inputs"][0]["sha256"]
    if tested != exported:
        raise cli.StageError(
            f"{path} measures another checkpoint ({short(tested)}) than the one in {folder} ({short(exported)}): run "
            f"test.py with that one, or pass {WITHOUT_RESULT}"
        )
    return result, record


def _read_score(stage: str, path: str, model: dict, folder: Path) -> results.Result:
    option = SCORE_OPTIONS[stage]
    again = f"make it with {stage}, or leave {option} out"
    found = results.read(path, again, stage)
    released = next(file["sha256"] for file in model["outputs"] if file["name"] == WEIGHTS[0])
    ours = [result for result in found if result.weights in (released, model["inputs"][0]["sha256"])]
    if not ours:
        measured = ", ".join(short(result.weights) for result in found)
        raise cli.StageError(
            f"{found[0].path} measures other weights ({measured}) than those in {folder} ({short(released)}): run "
            f"{stage} with {folder}, or leave {option} out"
        )
    if ours[0].is_random:
        raise cli.StageError(
            f"{found[0].path} measures random weights of their shape instead of those in {folder}: run {stage} with "
            f"those, or leave {option} out"
        )
    return ours[0]


def read_scores(named: dict[str, str | None], model: dict, folder: Path) -> dict[str, results.Result]:
    """The results of the evaluations that are named, by stage, each of the weights in `folder` or of their checkpoint.

    Raises StageError for one of others, of random weights, or that was changed since.
    """
    return {stage: _read_score(stage, path, model, folder) for stage, path in named.items() if path is not None}


def name_of(repo: str | None, name: str | None) -> str:
    """The name of the model, which is that of its repository: ("taro/bert-x", None) -> "bert-x"."""
    of_repo = repo.partition("/")[2] if repo else None
    if None not in (of_repo, name) and of_repo != name:
        raise cli.StageError(f"--name {name} and --repo {repo} are two names: leave --name out, or make them the same")
    return next(known for known in (name, of_repo, DEFAULT_NAME) if known is not None)


def read_changelog(changelog: str | None, repo: str | None, tag: str) -> bytes | None:
    """The bytes of the user's own changelog, which has to have an entry for what is to go to a repository."""
    if changelog is None:
        return None
    content = files.require_text(changelog, "name a text with --changelog, or leave it out").read_bytes()
    if repo is not None:
        hub.entry(content.decode(errors="replace"), tag)
    return content


def require_license(facts: model_card.Facts) -> str:
    """The licence that the model's texts give it where none is named."""
    found = licences.default(facts.licensed)
    if found is None:
        said = (f"{each.get('name') or 'its text'}: {each.get('license') or 'unknown'}" for each in facts.licensed)
        raise cli.StageError(
            f"--license is needed, none follows from what the model is made of ({'; '.join(said)}): name the licence "
            "that you release it under, such as apache-2.0 or other"
        )
    return found
