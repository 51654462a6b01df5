"""Stage 6: a checkpoint to a Hugging Face model folder: weights, configuration and the run's tokenizer.

The folder loads offline with AutoModelForMaskedLM, BertForPreTraining and pipeline("fill-mask"). Before it is put into
place, a process that knows nothing of training loads it, and every answer of it is compared with the checkpoint's:

    python3 export_model.py --ckpt_path best --output_dir model
"""

import dataclasses
from pathlib import Path

from bert_ja import cli, files, gate, model_card, model_folder, tokenization

STAGE = "export_model.py"


def draw_samples(data, line_ids: list[list[int]], config) -> list[gate.Sample]:
    """Samples of the run's own validation, where they are there, and of our own lines."""
    paths = [Path(path) for path in data.shares["valid"]]
    found = [path for path in paths if path.is_file()]
    if len(found) < len(paths) or not paths:
        cli.say("samples of the validation are not here: logits are compared on sentences of our own alone")
    return gate.draw_samples(config, data.vocabulary, line_ids, found)


def compare(folder: Path, module, data, private: bool) -> dict:
    """Ask the folder in a process of its own; what it should answer, for the record. Raises StageError with all faults.

    The folder's own files are compared first where its tokenizer was copied.
    """
    from bert_ja import continuing

    tokenizer, config = Path(data.tokenizer_model), module.model.config
    expected = gate.expect(module, tokenizer, continuing.LINES, model_card.PROMPTS, private)
    if not expected.facts["token_types_by_default"]:
        cli.say(
            f"{tokenizer}: its tokenizer gives no token types unless asked (return_token_type_ids=True); "
            "its files are kept as they are"
        )
    samples = draw_samples(data, expected.line_ids, config)
    module.model.set_attn_implementation("sdpa")  # these are padded rows, packed ones need their places in rows
    if not tokenization.is_convertible(tokenizer):
        gate.require_same_files(tokenizer, folder)
    with gate.FreshProcess() as process:
        faults, differences = gate.examine(process, folder, expected, module.model, samples)
    if faults:
        raise cli.StageError(f"the exported model is not the trained one, nothing was written: {gate.sentence(faults)}")
    counts = {"samples": len(samples), "tokens": sum(len(ids) for ids, _ in samples)}
    return expected.facts | counts | {"largest_difference": dataclasses.asdict(differences)}


def main(ckpt_path: str = "best", config: str | None = None, output_dir: str = "model") -> None:
    """Export a checkpoint as a Hugging Face model folder.

    Args:
        ckpt_path: Checkpoint file, run folder (its best), best or last (both of the newest run).
        config: Configuration of the run; the config.yaml beside the checkpoint's folder when not given.
        output_dir: Folder to write; replaced if it was written by this stage.
    """
    from bert_ja import continuing, training

    training.quiet_start()
    training.quiet_loading()
    files.require_replaceable(output_dir, STAGE)
    path = training.find_checkpoint(ckpt_path)
    checkpoint = training.load_checkpoint(path)
    arguments = ["--config", str(training.find_config(config, path)), "--trainer.callbacks=null"]
    arguments += ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    arguments += ["--trainer.precision=32-true", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    command = training.TrainingCLI(arguments, checkpoint, save_config_callback=None)
    module, data = command.model, command.datamodule
    training.require_same_vocabulary(path, checkpoint, data.vocabulary)
    training.load_weights(module, path, checkpoint)
    corpus = files.corpus_facts(checkpoint["provenance"], data.is_private())

    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    files.require_space(Path(output_dir).absolute().parent, weights, "the exported model")
    with training.one_line_failures(), files.output_folder(output_dir, STAGE) as folder:
        model_folder.write_model(module.model, data.vocabulary, folder)
        model_folder.write_tokenizer(Path(data.tokenizer_model), folder, module.hparams.max_position_embeddings)
        compared = compare(folder, module, data, corpus["private"])
        record = {
            "stage": STAGE,
            "options": {},
            "versions": files.versions("torch", "transformers"),
            "inputs": [files.describe(path)],
            "outputs": files.describe_folder(folder),
            "tokenizer": data.vocabulary.facts(),
            "model": {name: value for name, value in checkpoint["hyper_parameters"].items() if name[0] != "_"},
            "steps": checkpoint["global_step"],
            "training": {name: fact for name, fact in checkpoint["provenance"].items() if name != "history"},
            **training.run_history(path, checkpoint),
            "corpus": corpus,
            "history": checkpoint["provenance"].get("history", []),  # earlier versions wrote none
            "gate": compared,
            "run": files.run_facts(checkpoint=path, output_dir=output_dir),
        }
        files.write_record(folder, record)
    size, largest = sum(file["size"] for file in record["outputs"]), compared["largest_difference"]
    cli.say(
        f"wrote {len(record['outputs'])} files, {size / files.MEGABYTE:,.1f} MB, to {output_dir} "
        f"(step {checkpoint['global_step']:,})"
    )
    cli.say(
        f"a fresh process loads them: largest difference of MLM logits {largest['mlm']:.1e}, of NSP logits "
        f"{largest['nsp']:.1e} on {compared['tokens']:,} tokens of {compared['samples']:,} samples; the same ids of "
        f"{len(continuing.LINES)} lines and guesses for {len(compared['fill_mask'])} masks"
    )


if __name__ == "__main__":
    cli.run(main)
