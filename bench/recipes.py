"""Variants of pre-training, each a change to the published one, and how a small model is trained by one.

To compare another one, add it to VARIANTS: nothing else has to know of it.
"""

from pathlib import Path
from typing import NamedTuple

from bench import fits
from bert_ja import masking
from bert_ja.dataset import Batches, Columns, Step
from bert_ja.pretraining import BertPretraining
from bert_ja.tokenization import Vocabulary

CLIP = 1.0  # as published
WARM_UP = 0.05  # of the optimizer steps; 10,000 of the published 210,000
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # of Lightning
VALIDATION_BATCHES = 8  # for Lightning's checkpoint; what is compared is measured afterwards
PUBLISHED = {  # scaled down
    "samples": {"objective": "nsp", "unit": "sentence", "whole_word_mask": False},
    "model": {
        **{"optimizer": "adam", "weight_decay": 0.0, "lr_schedule": "constant"},
        **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    },
    "data": {"mlm_probability": 0.15, "mlm_probability_end": None},
}


class Variant(NamedTuple):
    """How to train. `samples` are options of prepare_train_data.py, `model` and `data` those of trainer.py."""

    about: str
    samples: dict
    model: dict
    data: dict
    tokens: float = 1.0  # of an optimizer step, times those of the comparison
    lr: float = 1.0  # learning rate, times that of the comparison

    def options(self) -> dict:
        """All that makes it this variant, for the results."""
        return {name: value for name, value in self._asdict().items() if name != "about"}


def changed(about: str, tokens: float = 1.0, lr: float = 1.0, **options) -> Variant:
    """The published recipe with other options, each named as in PUBLISHED; hidden and attention dropout are one."""
    if "dropout" in options:
        dropout = options.pop("dropout")
        options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    parts = {
        part: {name: options.pop(name, value) for name, value in usual.items()} for part, usual in PUBLISHED.items()
    }
    if options:
        raise TypeError(f"unknown options of a variant: {', '.join(options)}")
    return Variant(about, **parts, tokens=tokens, lr=lr)


BASELINE = "baseline"
LITERATURE = {  # what base-v2.yaml was before anything was measured
    **{"objective": "none", "unit": "segment", "whole_word_mask": True, "mlm_probability": 0.3, "dropout": 0.0},
    **{"optimizer": "adamw", "weight_decay": 0.01, "lr_schedule": "linear", "lr": 2.0},
}
V2 = LITERATURE | {"whole_word_mask": False, "optimizer": "muon"}  # as configs/base-v2.yaml
VARIANTS = {
    BASELINE: changed("the published variant: sentence pairs, NSP, 15 % masked, Adam, a constant learning rate"),
    "segments": changed("segments as long as fit, in pairs (Devlin et al. 2019, A.2)", unit="segment"),
    "none": changed("one segment, no second task (Liu et al. 2019)", objective="none", unit="segment"),
    "mask_30": changed("30 % masked (Wettig et al. 2023)", mlm_probability=0.3),
    "mask_falling": changed(
        "30 % masked at first, 15 % at the end (Ankner et al. 2023)", mlm_probability=0.3, mlm_probability_end=0.15
    ),
    "whole_words": changed("whole words are masked", whole_word_mask=True),
    "adamw": changed("weight decay 0.01 (Loshchilov, Hutter 2019)", optimizer="adamw", weight_decay=0.01),
    "linear": changed("the learning rate falls linearly to zero (Devlin et al. 2019)", lr_schedule="linear"),
    "lr_2x": changed("twice the learning rate", lr=2.0),
    "dropout_0": changed("no dropout (Geiping, Goldstein 2023)", dropout=0.0),
    "muon": changed("Muon for the matrices of the layers (Jordan et al. 2024)", optimizer="muon", weight_decay=0.01),
    "muon_2x": changed("Muon, twice the learning rate", optimizer="muon", weight_decay=0.01, lr=2.0),
    "literature": changed("what the literature chooses, all at once, and twice the learning rate", **LITERATURE),
    "v2": changed("all of configs/base-v2.yaml, and twice the learning rate", **V2),
    "v2_adamw": changed("v2 with AdamW and the baseline's learning rate", **V2 | {"optimizer": "adamw", "lr": 1.0}),
    "v2_adamw_half": changed("v2 with AdamW and half the baseline's rate", **V2 | {"optimizer": "adamw", "lr": 0.5}),
    "v2_adamw_2x": changed("v2 with AdamW and v2's learning rate", **V2 | {"optimizer": "adamw"}),
    "v2_adamw_4x": changed("v2 with AdamW and twice v2's learning rate", **V2 | {"optimizer": "adamw", "lr": 4.0}),
    "v2_adam": changed("v2_adamw without weight decay", **V2 | {"optimizer": "adam", "weight_decay": 0.0, "lr": 1.0}),
    "v2_words": changed("v2, whole words are masked", **V2 | {"whole_word_mask": True}),
    "v2_mask_15": changed("v2 with 15 % masked", **V2 | {"mlm_probability": 0.15}),
    "v2_nsp": changed("v2 with NSP, of two segments", **V2 | {"objective": "nsp"}),
    "v2_pairs": changed("v2 with NSP, of two sentences", **V2 | {"objective": "nsp", "unit": "sentence"}),
    "v2_constant": changed("v2 with a constant learning rate", **V2 | {"lr_schedule": "constant"}),
    "v2_dropout": changed("v2 with dropout", **V2 | {"dropout": 0.1}),
    "v2_lr_half": changed("v2 with half its learning rate", **V2 | {"lr": 1.0}),
    "v2_lr_2x": changed("v2 with twice its learning rate", **V2 | {"lr": 4.0}),
    "v2_lr_4x": changed("v2 with four times its learning rate", **V2 | {"lr": 8.0}),
    "v2_mask_falling": changed("v2, 30 % masked at first, 15 % at the end", **V2, mlm_probability_end=0.15),
    "sop": changed("the second task is the order of the two sentences (Lan et al. 2020)", objective="sop"),
    "sop_segments": changed("the same, of two segments", objective="sop", unit="segment"),
    "cosine": changed("the learning rate falls to zero as a cosine", lr_schedule="cosine"),
    "lr_4x": changed("four times the learning rate", lr=4.0),
    "batch_half": changed("half the tokens an optimizer step, twice the steps", tokens=0.5),
    "batch_double": changed("twice the tokens an optimizer step, half the steps", tokens=2.0),
}


def base_of(name: str) -> str:
    """The variant that one is compared with: v2 where it changes that, else the published recipe."""
    return "v2" if name.startswith("v2_") else BASELINE


class Scale(NamedTuple):
    """What all variants of a comparison share."""

    layers: int
    width: int
    max_seq_len: int
    step_tokens: int  # tokens of an optimizer step
    lr: float
    precision: str  # as trainer.precision
    device: str  # cpu or cuda


def samples_name(variant: Variant) -> str:
    """What its samples are called: none-segment-words."""
    made = variant.samples
    return "-".join([made["objective"], made["unit"], *(["words"] if made["whole_word_mask"] else [])])


def batch_size(variant: Variant, scale: Scale, tokens_per_sample: float) -> int:
    """Samples an optimizer step, so that all variants read as many tokens in one: (4,096, 32.0) -> 128."""
    return max(1, round(scale.step_tokens * variant.tokens / tokens_per_sample))


def cost_of(variant: Variant) -> str:
    """What the time of its optimizer step depends on, in words; variants with one cost take equally many steps.

    Adam and AdamW cost the same, as do all learning rates and schedules. Of a rate that changes, the mean counts. Which
    tokens are masked is drawn beside the step, in a process of its own: whole words cost nothing here.
    """
    first, last = variant.data["mlm_probability"], variant.data["mlm_probability_end"]
    optimizer = {"adamw": "adam"}.get(variant.model["optimizer"], variant.model["optimizer"])
    dropout = variant.model["hidden_dropout_prob"], variant.model["attention_probs_dropout_prob"]
    return (
        f"{variant.samples['objective']} {variant.samples['unit']}, masked {mean_rate(first, last):g}, {optimizer}, "
        f"dropout {dropout[0]:g} {dropout[1]:g}, tokens x {variant.tokens:g}"
    )


def mean_rate(first: float, last: float | None) -> float:
    return first if last is None else (first + last) / 2


# Training by one


def config(
    variant: Variant,
    scale: Scale,
    samples: Path,
    tokenizer_model: Path,
    tokens_per_sample: float,
    steps: int,
    seed: int,
) -> dict:
    """The configuration of trainer.py for so many optimizer steps, with samples of a folder (train.jsonl, valid.jsonl).

    The seed is that of the weights, of dropout, of the order of the samples and of their masks.
    """
    saved = {"monitor": "val_loss", "save_top_k": 1, "save_last": True}
    return {
        "seed_everything": seed,
        "val_every_n_steps": steps,
        "trainer": {
            **{"accelerator": ACCELERATORS[scale.device], "precision": scale.precision},
            **{"max_steps": steps, "gradient_clip_val": CLIP},
            **{"limit_val_batches": VALIDATION_BATCHES, "num_sanity_val_steps": 0, "enable_model_summary": False},
            "callbacks": [{"class_path": "bert_ja.callbacks.ModelCheckpoint", "init_args": saved}],
        },
        "model": {
            **{"hidden_size": scale.width, "num_hidden_layers": scale.layers},
            **{"num_attention_heads": fits.heads_of(scale.width), "max_position_embeddings": scale.max_seq_len},
            **{"lr": scale.lr * variant.lr, "num_warmup_steps": round(WARM_UP * steps), **variant.model},
        },
        "data": {
            **{"tokenizer_model": str(tokenizer_model), "train_file": str(samples / "train.jsonl")},
            **{"valid_file": str(samples / "valid.jsonl"), "num_workers": 0, "seed": seed},
            **{"batch_size": batch_size(variant, scale, tokens_per_sample), **variant.data},
        },
    }


def built_steps(variant: Variant, scale: Scale, columns: Columns, vocabulary: Vocabulary, count: int) -> list[Step]:
    """Optimizer steps as a run draws them, masked at the mean of its rates."""
    rule = masking.MaskingRule(mean_rate(variant.data["mlm_probability"], variant.data["mlm_probability_end"]))
    size = batch_size(variant, scale, len(columns.ids) / len(columns))
    batches = Batches(columns, vocabulary, size, fits.SEED, True, rule=rule)
    return [batches.step(*divmod(number, batches.steps())) for number in range(count)]


def time_of(variant: Variant, scale: Scale, steps: list[Step], vocabulary: Vocabulary) -> dict:
    """Seconds of an optimizer step in the real Trainer: the mean over all but the first one.

    On a GPU the mean over all, each taken once before: kernels of a shape are captured when it is first met.
    """
    if scale.device == "cuda":
        steps, warm_up = 2 * [step.pin_memory() for step in steps], len(steps)
    else:
        warm_up = 1
    clock = fits.Clock(warm_up)
    precision = {name: short for short, name in fits.PRECISIONS.items()}[scale.precision]
    trainer = fits.new_trainer(scale.device, precision, [clock], max_epochs=1)
    options = {"lr": scale.lr, "max_position_embeddings": scale.max_seq_len} | variant.model
    model = fits.new_model(
        scale.layers, scale.width, vocabulary.size, BertPretraining, **options | {"lr_schedule": "constant"}
    )
    if variant.samples["objective"] == "none":
        model.leave_out_second_task()
    fits.make_ready(model, trainer)
    fits.time_steps(model, trainer, steps)
    return {"seconds": clock.seconds / clock.steps}
