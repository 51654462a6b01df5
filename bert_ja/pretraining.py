"""The LightningModule: BERT's two losses on a packed batch, around an unmodified transformers.BertForPreTraining.

Losses are means over masked tokens (MLM) and over samples (NSP) of a whole optimizer step, or of a whole validation or
test set; never means of batch means. Only masked positions go through the vocabulary-sized head.
"""

import math

import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForPreTraining,
    get_constant_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from bert_ja import attention
from bert_ja.cli import StageError

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "linear")
TOTALS = ("mlm_loss", "masked_tokens", "mlm_correct", "nsp_loss", "nsp_samples", "nsp_correct", "samples", "tokens")


class BertPretraining(pl.LightningModule):
    """BERT with its masked-LM and next-sentence heads (Devlin et al. 2019).

    Args:
        vocab_size: Pieces of the tokenizer; comes from data.tokenizer_model.
        hidden_size: Width of the model; a multiple of num_attention_heads.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Attention heads of each layer.
        intermediate_size: Width of the feed-forward layers; 4 x hidden_size when not given.
        max_position_embeddings: Longest sample in tokens that the model can read.
        hidden_dropout_prob: Dropout of embeddings and layers, 0 to 1.
        attention_probs_dropout_prob: Dropout of the attention weights, 0 to 1.
        lr: Learning rate after the warm-up.
        num_warmup_steps: Optimizer steps over which the learning rate rises from 0 to lr.
        lr_schedule: After the warm-up, "constant" or "linear" (to zero at the last step).
        optimizer: "adam" as published, or "adamw" (weight decay spares biases and LayerNorm).
        weight_decay: Weight decay of adamw.
    """

    MONITORED = ("val_loss", "val_mlm_loss", "val_mlm_accuracy", "val_nsp_loss", "val_nsp_accuracy")

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 512,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        lr: float = 1e-4,
        num_warmup_steps: int = 0,
        lr_schedule: str = "constant",
        optimizer: str = "adam",
        weight_decay: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.provenance: dict = {}  # what a checkpoint carries along: tokenizer, data, corpus
        self.model = BertForPreTraining(
            BertConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size or 4 * hidden_size,
                max_position_embeddings=max_position_embeddings,
                hidden_dropout_prob=hidden_dropout_prob,
                attention_probs_dropout_prob=attention_probs_dropout_prob,
                attn_implementation=attention.NAME,
            )
        )

    # The step

    def forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | None]:
        """MLM logits at the masked positions, (masked, vocab_size), and NSP logits, (samples, 2).

        Samples without a second task (no next_sentence_labels) have none of the latter.
        """
        bert, heads = self.model.bert, self.model.cls
        hidden = bert(
            input_ids=batch["input_ids"].unsqueeze(0),
            token_type_ids=batch["token_type_ids"].unsqueeze(0),
            position_ids=batch["position_ids"].unsqueeze(0),
            groups=batch["groups"],
            order=batch["order"],
        ).last_hidden_state[0]  # (tokens, hidden)
        mlm_logits = heads.predictions(hidden[batch["mlm_positions"]])
        if "next_sentence_labels" not in batch:
            return mlm_logits, None
        first_tokens = hidden[batch["cu_seqlens"][:-1]]  # (samples, hidden): each sample's [CLS]
        return mlm_logits, heads.seq_relationship(bert.pooler(first_tokens.unsqueeze(1)))

    def totals(self, batch: dict) -> dict[str, torch.Tensor]:
        """Sums over the batch, as named in TOTALS; the two losses keep their gradient.

        Samples without a second task add nothing to nsp_loss, nsp_samples and nsp_correct.
        """
        mlm_logits, nsp_logits = self(batch)
        mlm_labels = batch["mlm_labels"]
        totals = dict.fromkeys(TOTALS, torch.zeros((), device=self.device)) | {
            "mlm_loss": cross_entropy(mlm_logits.float(), mlm_labels, reduction="sum"),
            "masked_tokens": torch.tensor(len(mlm_labels), device=self.device),
            "mlm_correct": (mlm_logits.argmax(-1) == mlm_labels).sum(),
            "samples": torch.tensor(len(batch["cu_seqlens"]) - 1, device=self.device),
            "tokens": torch.tensor(len(batch["input_ids"]), device=self.device),
        }
        if nsp_logits is not None:
            nsp_labels = batch["next_sentence_labels"]
            totals |= {
                "nsp_loss": cross_entropy(nsp_logits.float(), nsp_labels, reduction="sum"),
                "nsp_samples": torch.tensor(len(nsp_labels), device=self.device),
                "nsp_correct": (nsp_logits.argmax(-1) == nsp_labels).sum(),
            }
        return totals

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        totals = self.totals(batch)
        # Lightning divides by accumulate_grad_batches; this makes the step's gradient that of its means.
        mlm = totals["mlm_loss"] / batch["step_predicted"].clamp(min=1)  # labels may all be missing
        nsp = totals["nsp_loss"] / batch["step_samples"]
        every = self.trainer.log_every_n_steps  # 0: never
        if every and (self.trainer.global_step + 1) % every == 0:  # the steps at which Lightning hands metrics on
            logged = {
                "train_mlm_loss": (totals["mlm_loss"] / totals["masked_tokens"]).detach(),
                "train_mlm_accuracy": totals["mlm_correct"] / totals["masked_tokens"],
            }
            if "next_sentence_labels" in batch:
                logged["train_nsp_loss"] = (totals["nsp_loss"] / totals["samples"]).detach()
                logged["train_nsp_accuracy"] = totals["nsp_correct"] / totals["samples"]
            self.log_dict(logged)
        return (mlm + nsp) * self.trainer.accumulate_grad_batches

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(len(TOTALS), dtype=torch.float64, device=self.device)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        totals = self.totals(batch)
        self._sums += torch.stack([totals[name].double() for name in TOTALS])

    test_step = validation_step

    def metrics(self) -> dict[str, float | int | None]:
        """Means over everything since the set began, in nats (losses) and shares (accuracies).

        Without a second task the loss is that of the masked tokens, and what concerns NSP is None.
        """
        sums = dict(zip(TOTALS, self._sums.tolist(), strict=True))
        mlm_loss, nsp_samples = sums["mlm_loss"] / sums["masked_tokens"], sums["nsp_samples"]
        nsp_loss = sums["nsp_loss"] / nsp_samples if nsp_samples else None
        return {
            "loss": mlm_loss + (nsp_loss or 0.0),
            "mlm_loss": mlm_loss,
            "mlm_accuracy": sums["mlm_correct"] / sums["masked_tokens"],
            "perplexity": math.exp(min(mlm_loss, 700.0)),
            "nsp_loss": nsp_loss,
            "nsp_accuracy": sums["nsp_correct"] / nsp_samples if nsp_samples else None,
            "samples": int(sums["samples"]),
            "tokens": int(sums["tokens"]),
        }

    def on_validation_epoch_end(self) -> None:
        metrics = self.metrics()
        for name in self.MONITORED:
            if metrics[name.removeprefix("val_")] is not None:
                self.log(name, metrics[name.removeprefix("val_")], prog_bar=name == "val_loss")

    def on_test_epoch_end(self) -> None:
        self.log("test_loss", self.metrics()["loss"])

    # Optimizer and checkpoint

    def _parameter_groups(self) -> list[dict]:
        """Weight decay on matrices, none on biases and LayerNorm (Devlin et al. 2019, A.2)."""
        decayed = [p for p in self.parameters() if p.ndim >= 2]
        spared = [p for p in self.parameters() if p.ndim < 2]
        return [
            {"params": decayed, "weight_decay": self.hparams.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]

    def new_optimizer(self, fused: bool) -> torch.optim.Optimizer:
        options = self.hparams
        if options.optimizer == "adam":
            optimizer = torch.optim.Adam(self.parameters(), lr=options.lr, fused=fused)
        else:
            optimizer = torch.optim.AdamW(self._parameter_groups(), lr=options.lr, fused=fused)
        # A fused step would take fp16's loss scale off the gradients itself, which is too late to clip them: Lightning
        # refuses that, in bf16 too. Without this mark it unscales, clips and then steps, as for any other optimizer.
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def configure_optimizers(self) -> dict:
        options = self.hparams
        optimizer = self.new_optimizer(fused=self.device.type == "cuda")
        if options.lr_schedule == "constant":
            schedule = get_constant_schedule_with_warmup(optimizer, options.num_warmup_steps)
        else:
            steps = self.trainer.estimated_stepping_batches
            if math.isinf(steps):
                raise StageError(
                    "model.lr_schedule linear needs a last step: set trainer.max_steps or trainer.max_epochs"
                )
            if options.num_warmup_steps >= steps:
                raise StageError(
                    f"model.num_warmup_steps is {options.num_warmup_steps:,}, the run has {steps:,} optimizer steps: "
                    "lower it, or raise trainer.max_steps"
                )
            schedule = get_linear_schedule_with_warmup(optimizer, options.num_warmup_steps, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["provenance"] = self.provenance
