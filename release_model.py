"""Stage 8: an exported model to a release folder: model files, model card (README.md), loss curve, CHANGELOG.md.

Reads model/ (of export_model.py and convert_tokenizer.py) and the result of test.py, both with their records; writes
release/NAME/, which holds no path and no name of this machine, after loading it once. With --repo ACCOUNT/NAME it shows
what it would upload to the Hub, and with --push True it does:

    python3 release_model.py --name bert-base-ja --test_result test_result.json

--verify RELEASE --data DIR releases nothing: it makes text, tokenizer and samples of a release again, from its dump.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

from bert_ja import cli, disclosure, files, gate, hub, licences, loss_curve, model_card, tokenization, verification
from bert_ja import formats as other_formats

STAGE = "release_model.py"
DEFAULT_NAME = "bert-base-ja"
LICENSE = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*", re.ASCII)
PLAIN_JSON = ("config.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "config.json")
NEEDED = (*WEIGHTS, *tokenization.FOLDER_FILES)
CARD, CHANGELOG = hub.CARD, hub.CHANGELOG
WITHOUT_RESULT = "--test_result none"


def short(sha256: str | None) -> str:
    return f"sha256 {str(sha256)[:12]}"


def check(model: Path, release: Path, name: str, license: str | None) -> None:
    """Refuse what cannot work, before anything is read."""
    cli.require(
        {
            "--name must be a repository name of the Hub without the account (letters, digits, -, _ and ., at most 96; "
            f"no -- or .., no - or . at an end, no .git), got {name!r}": hub.NAME.fullmatch(name) is not None,
            "--license must be a licence as the Hub abbreviates it, such as cc-by-sa-4.0, apache-2.0 or other, "
            f"got {license!r}": license is None or LICENSE.fullmatch(license) is not None,
        }
    )
    if not model.is_dir():
        raise cli.StageError(f"{model} is not a folder: run export_model.py first, or pass --model_dir")
    if release.resolve().is_relative_to(model.resolve()) or model.resolve().is_relative_to(release.resolve()):
        raise cli.StageError(f"{release} and {model} must be two folders: name another --release_dir")
    files.require_replaceable(release, STAGE)


def require_unedited(release: Path, changelog: Path | None) -> None:
    """Refuse to replace a card or changelog that somebody has edited since; one passed with --changelog is kept."""
    record = files.read_record(release) or {}
    for file in record.get("outputs", []):
        path = release / file["name"]
        passed = changelog is not None and changelog.resolve() == path.resolve()
        if file["name"] in (CARD, CHANGELOG) and path.is_file() and not passed and files.sha256(path) != file["sha256"]:
            hint = f", or pass --changelog {path}" if file["name"] == CHANGELOG else ""
            raise cli.StageError(f"{path} was edited, and the edit would be lost: move it away first{hint}")


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


def try_out(folder: Path, prompts: tuple[str, ...]) -> model_card.Tried:
    """What a folder that has passed the gate makes of the card's prompts."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tried = model_card.try_out(transformers.AutoModelForMaskedLM.from_pretrained(folder), tokenizer, prompts)
    spm_model = folder / tokenization.MODEL_FILE
    return dataclasses.replace(tried, spm_sha256=files.sha256(spm_model) if spm_model.is_file() else None)


def copy_model(folder: Path, source: Path, records: list[dict]) -> None:
    """Copy the files that the records name, without what a tokenizer of elsewhere tells of the machine it is from."""
    for name in sorted({file["name"] for record in records for file in record["outputs"]}):
        shutil.copyfile(source / name, folder / name)
        if name in PLAIN_JSON and (removed := disclosure.remove_paths(folder / name)):
            cli.say(f"left out of {name}, a path of this machine stands there: {', '.join(removed)}")
        if name.endswith(".model") and (removed := disclosure.remove_training_facts(folder / name)):
            cli.say(f"left out of {name}, of its training: {', '.join(removed)}")


def write_texts(folder: Path, facts: model_card.Facts, tag: str, changelog: bytes | None, template: str) -> None:
    """What describes a model: loss curve, card, changelog, .gitattributes."""
    facts = dataclasses.replace(facts, tried=try_out(folder, facts.prompts))
    if curve := facts.model.get("curve"):
        picture = loss_curve.draw(curve, facts.training.get("unigram_entropy"), model_card.second_name(facts))
        files.write_bytes(folder / model_card.PICTURE, picture)
    files.write_bytes(folder / CARD, model_card.model_card(facts, template).encode())
    files.write_bytes(folder / CHANGELOG, changelog or model_card.changelog(facts, tag).encode())
    files.write_bytes(folder / hub.ATTRIBUTES, hub.gitattributes(folder))


def release_record(facts: model_card.Facts, tag: str, outputs: list[dict], written: dict, history: dict) -> dict:
    """The record of a release: the records that it comes from, and nothing of this machine (no field `run`).

    `written` is said of each other format; `history` is that of all records, once.
    """
    records = [record for record in (facts.model, facts.tokenizer, facts.test_record) if record]

    def hidden(name: str) -> bool:
        return facts.test_is_private and name in model_card.COUNTS

    return {
        "stage": STAGE,
        "options": {"name": facts.name, "license": facts.license, "tag": tag},
        "versions": files.versions("huggingface_hub", "transformers", "torch"),
        "inputs": list({file["name"]: file for record in records for file in record["outputs"] if file}.values()),
        "outputs": outputs,
        "tokenizer": facts.model["tokenizer"],
        "corpus": facts.corpus | {"private": any(files.corpus_facts(record)["private"] for record in records)},
        "result": facts.test and {name: facts.test[name] for name in facts.test if not hidden(name)},
        "formats": written,
        "records": {record["stage"]: {n: value for n, value in record.items() if n != "history"} for record in records},
        **history,
    }


def say_doubts(facts: model_card.Facts, records: list[dict | None], template: str) -> None:
    """Name on stderr what the card leaves out, and what its user has to judge."""
    for text in dict.fromkeys(text for record in records for text in disclosure.paths_in(record, facts.private)):
        cli.say(f"warning: left out of the release, it names a path of this machine: {text!r}")
    if unknown := model_card.unknown(facts, template):
        cli.say(f"not known, and left out of the card: {', '.join(unknown)}")
    for doubt in licences.doubts(facts.license, facts.licensed):
        cli.say(f"warning: {doubt}")
    if facts.private:
        cli.say(
            "warning: the corpus is private, and the vocabulary (spm.model, tokenizer.json) holds words of its text: "
            "read it before you hand the release on"
        )


def publish(release: Path, repo: str, tag: str, public: bool, token: str | None) -> None:
    """Upload a release, or show what would be uploaded where there is no token."""
    if token is not None:
        print(hub.push(release, repo, tag, public, token))
        return
    print(hub.plan(release, repo, tag, public))
    cli.say("nothing was sent: the same command with --push True uploads this")


def main(
    model_dir: str = "model",
    name: str | None = None,
    release_dir: str = "release",
    test_result: str | None = "test_result.json",
    license: str | None = None,
    changelog: str | None = None,
    formats: str = "safetensors",
    card_template: str | None = None,
    prompts: str | None = None,
    repo: str | None = None,
    push: bool = False,
    public: bool = False,
    tag: str = "v1.0",
    verify: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
) -> None:
    """Make the folder of a release; show or do what publishes it. Or, with --verify, check one.

    Args:
        model_dir: Folder of export_model.py, its tokenizer verified by convert_tokenizer.py.
        name: Name of the model: of its folder, of its repository on the Hub, and in the card; when not given, that of
            --repo, or else bert-base-ja.
        release_dir: Folder in which the folder NAME is made; an earlier release there is replaced.
        test_result: What test.py printed for the exported checkpoint, with its record beside it; none releases
            without results, and the card says that the model was not evaluated.
        license: Licence of the model, as the Hub abbreviates it. When not given, cc-by-sa-4.0 where one of its texts is
            under CC BY-SA, as Wikipedia is, else that of the text, which must then be known. The licences of the texts
            come from their records.
        changelog: Your own changelog of the model, Markdown; when not given, one with a first entry is written. The
            version that is published needs an entry in it, under a heading such as ## v1.0.
        formats: Formats of the weights, parted by commas: safetensors, which is always there, onnx, tensorflow.
        card_template: Your own model card, made of configs/model_card.md: Markdown in which $facts are filled in. A
            line with a fact that is not known is left out.
        prompts: Text of prompts, one a line with one [MASK] each, whose fillings the card shows; when not given, the
            published one and three more.
        repo: Repository on the Hub, ACCOUNT/NAME; what would be uploaded there is shown, and nothing is sent.
        push: Upload to --repo: one commit, with a tag. The token comes from HF_TOKEN or `hf auth login`. After a
            failure run the same command again.
        public: Let everybody see the repository; without it only your account does.
        tag: Version of the release: its tag on the Hub, and its entry in the changelog.
        verify: Folder of a release to check; nothing is released then. Text, tokenizer and samples are made again by
            the recorded stages and compared. Each stage gets a line (ok, differs, not checked), stdout a JSON report;
            exit code 2 where anything differs or could be checked and was not.
        data: With --verify, folder of the dump's files, or of the text that the release was made from.
        work_dir: With --verify, folder for what is made again, as large as text and samples; it stays, and a
            verification that was ended goes on in it. When not given, a temporary one.
    """
    if verify is not None:
        checker = {"--verify needs --data, the folder of the dump or text that the release was made from": bool(data)}
        cli.require(checker | {"--verify releases nothing: leave --repo, --push and --public out": not (repo or push)})
        verification.verify(Path(verify), Path(data), Path(work_dir) if work_dir else None)
        return
    cli.require({"--data and --work_dir go with --verify RELEASE": data is None and work_dir is None})
    hub.check(repo, push, public, tag)
    name = name_of(repo, name)
    source, release = Path(model_dir), Path(release_dir) / name
    check(source, release, name, license)
    template, filled = model_card.read_template(card_template), model_card.read_prompts(prompts)
    token, chosen = hub.require_token(repo) if push else None, other_formats.require(formats)
    model, tokenizer = read_model(source)
    result, test = read_test(test_result, model, source) if test_result else (None, None)
    own_changelog = read_changelog(changelog, repo, tag)
    require_unedited(release, Path(changelog) if changelog else None)
    size, private = sum(file["size"] for file in model["outputs"]), files.is_private(source)
    files.require_space(release_dir, int(1.01 * size * (1 + 2 * len(chosen))) + files.MEGABYTE, "the release")
    facts = model_card.Facts(
        name=name,
        license=license or "",
        model=model_card.public(model, private),
        tokenizer=model_card.public(tokenizer, private),
        config=json.loads((source / "config.json").read_text(encoding="utf-8")),
        parameters=model_card.count_parameters(source / "model.safetensors"),
        test=result,
        test_record=model_card.public(test, private),
        prompts=filled,
    )
    facts = dataclasses.replace(facts, license=license or require_license(facts))
    say_doubts(facts, [model, tokenizer, test], template)
    history = {} if private else verification.history_of(model_card.public, model, tokenizer, test)

    with files.output_folder(release, STAGE) as folder:
        copy_model(folder, source, [record for record in (model, tokenizer) if record])
        gate.require_as_recorded(folder, source, model, private)
        written = other_formats.write(folder, chosen)
        write_texts(folder, facts, tag, own_changelog, template)
        outputs = files.describe_folder(folder)
        files.write_record(folder, release_record(facts, tag, outputs, written, history))
    size = sum(file["size"] for file in outputs)
    cli.say(
        f"wrote {len(outputs)} files, {size / files.MEGABYTE:,.1f} MB, to {release}, which answers as the export did"
    )
    if repo is not None:
        publish(release, repo, tag, public, token)


if __name__ == "__main__":
    cli.run(main)
