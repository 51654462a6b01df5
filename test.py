"""Stage 5: the losses of a checkpoint on the test samples, as one JSON object on standard output.

Losses are means over all masked tokens and all samples, whatever the batch size; the callbacks of the configuration may
stay in it:

    python3 test.py --config config.yaml --ckpt_path best > test_result.json
"""

import contextlib
import json
import math
import sys

from bert_ja import cli, files


def main(
    config: str | None = None,
    ckpt_path: str = "best",
    test_file: str | None = None,
    batch_size: int | None = None,
    accelerator: str | None = None,
    devices: str = "1",
) -> None:
    """Measure a checkpoint on the test samples.

    Args:
        config: Configuration of the run; the config.yaml beside the checkpoint's folder when not given.
        ckpt_path: Checkpoint file, run folder (its best), best or last (both of the newest run).
        test_file: Samples to test on instead of the configuration's data.test_file.
        batch_size: Samples a batch instead of the configuration's; changes speed and memory, not the result.
        accelerator: Device instead of the configuration's, such as cpu for a run that was trained on a gpu.
        devices: Which one, as trainer.devices names it: 1 for the first, [2] for the third.
    """
    from bert_ja import training

    training.quiet_start()
    path = training.find_checkpoint(ckpt_path)
    checkpoint = training.load_checkpoint(path)
    arguments = ["--config", str(training.find_config(config, path)), "--trainer.callbacks=null"]
    arguments += ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    # One device, however many trained: a set takes one a minute or so, and the result stands in one process.
    arguments += [f"--trainer.devices={devices}", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    arguments += [f"--data.test_file={test_file}"] if test_file is not None else []
    arguments += [f"--data.batch_size={batch_size}"] if batch_size is not None else []
    arguments += [f"--trainer.accelerator={accelerator}"] if accelerator is not None else []
    command = training.TrainingCLI(arguments, checkpoint, save_config_callback=None)
    model, data = command.model, command.datamodule
    if command.trainer.world_size > 1:
        raise cli.StageError(f"--devices {devices} is more than one: name the one to test on, 1 or [0] for the first")
    data.require("test", model.hparams.max_position_embeddings)
    training.require_same_vocabulary(path, checkpoint, data.vocabulary)
    training.load_weights(model, path, checkpoint)
    model.choose_attention(command.trainer.strategy.root_device, training.attention_dtype(command.trainer))

    with files.standard_output(may_append=True) as out:
        with training.one_line_failures(), contextlib.redirect_stdout(sys.stderr):  # Lightning's progress bar
            command.trainer.test(model, datamodule=data, verbose=False)
        metrics = model.metrics()
        result = {"test_loss": metrics.pop("loss"), **metrics}
        if not math.isfinite(result["test_loss"]):
            raise cli.StageError(f"the loss of {path} is {result['test_loss']}: the run diverged, test an earlier one")
        out.write(json.dumps(result).encode() + b"\n")
    if out.path is not None:
        record = {
            "stage": "test.py",
            "inputs": [files.describe(path), *(data.records["test"][0] or {}).get("outputs", [])],
            "outputs": [out.describe()],
            "tokenizer": data.vocabulary.facts(),
            "corpus": data.corpus("test", files.corpus_facts(checkpoint["provenance"])["private"]),
            "steps": checkpoint["global_step"],
            "history": data.history(),
            "run": files.run_facts(checkpoint=path, test_file=next(iter(data.shares["test"]))),
        }
        files.write_record(out.path, record)


if __name__ == "__main__":
    cli.run(main)
