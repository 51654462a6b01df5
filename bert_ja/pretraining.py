"""The LightningModule: BERT's two losses on packed batches, around an unmodified transformers.BertForPreTraining.

Losses are means over masked tokens (MLM) and over samples (NSP) of a whole optimizer step, or of a whole validation or
test set; never means of batch means. Only masked positions go through the vocabulary-sized head.

What Lightning calls a batch is an optimizer step here, with all its micro-batches: so everything that Lightning counts
is counted in optimizer steps, and a run can only be interrupted between two of them.
"""

import contextlib
import math

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForPreTraining,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from bert_ja import attention, continuing, draws, monitoring, muon
from bert_ja.cli import StageError
from bert_ja.dataset import Step
from bert_ja.graphs import Graphs
from bert_ja.samples import NOT_MASKED

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": muon.Muon}
SCHEDULES = {
    "constant": get_constant_schedule_with_warmup,
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
}
AUTO = "auto"
ATTENTION = (AUTO, *attention.BACKENDS)
MEASURED = ("mlm_loss", "mlm_correct", "nsp_loss", "nsp_correct")  # sums, which the device adds up
SIZES = ("masked_tokens", "nsp_samples", "samples", "tokens")  # of what; known without asking the device
TOTALS = (*MEASURED, *SIZES)


def _loss_and_correct(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of the losses in nats, how many predictions are right) of logits (n, classes)."""
    loss = cross_entropy(logits.float(), labels, ignore_index=NOT_MASKED, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum()


def _sizes_of(batch: dict) -> tuple[int, ...]:
    """SIZES of a micro-batch."""
    samples = len(batch["cu_seqlens"]) - 1
    paired = samples if "next_sentence_labels" in batch else 0
    return len(batch["mlm_labels"]), paired, samples, len(batch["input_ids"])


class NonfiniteSteps:
    """Counts optimizer steps that were not finite: those in a row up to now, the most in a row, all.

    What the device has found is fetched only when somebody looks, which has to be done when `due`.
    """

    LOOK_EVERY = 1000  # steps at most, in a run that never logs

    def __init__(self):
        self._finite: list[torch.Tensor] = []  # of each step since the last look, 0-d, on the device
        self._counts = 0, 0, 0

    def add(self, finite: torch.Tensor) -> None:
        """A step behind the last one: whether it was finite, 0-d."""
        self._finite.append(finite)

    @property
    def due(self) -> bool:
        """Whether LOOK_EVERY steps have not been looked at."""
        return len(self._finite) >= self.LOOK_EVERY

    def counts(self) -> tuple[int, int, int]:
        """(in a row up to now, the most in a row, all); waits for the device."""
        row, most, total = self._counts
        finite, self._finite = self._finite, []
        for each in torch.stack(finite).tolist() if finite else []:
            row = 0 if each else row + 1
            most, total = max(most, row), total + (not each)
        self._counts = row, most, total
        return self._counts


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
        lr_schedule: After the warm-up, "constant", or "linear" or "cosine" to zero at the last step.
        optimizer: "adam" as published; "adamw" (weight decay spares biases and LayerNorm); or "muon" for the matrices
            of the layers and adamw for the rest, with one lr and weight decay for both.
        weight_decay: Weight decay of adamw and muon.
        max_nonfinite_steps: Optimizer steps in a row whose loss or gradient is not finite, after which training stops;
            each of them is skipped and counted.
        attention_backend: "varlen" or "rows" instead of the best one for the device.
        compile: True compiles the training step, once for all shapes; the first steps take minutes.
        cuda_graphs: On one GPU with attention "varlen", replay the kernels of a micro-batch from a CUDA graph; False
            launches each by itself.
        packed: False pads every sample to max_position_embeddings and puts all positions through the vocabulary-sized
            head, as the published run did; for comparison.
        type_vocab_size: Token types of a sample: 2 for pairs, 1 or more for samples of --objective none.
        hidden_act: Activation of the feed-forward layers, as transformers names it.
        layer_norm_eps: What LayerNorm adds to the variance.
        embedding_rows: Rows of the word embeddings where they are more than the tokenizer's pieces.
        pad_token_id: Id of the padding piece; comes from data.tokenizer_model.
        from_pretrained: Folder of a BERT whose weights training starts with; the sizes above, hidden_act,
            layer_norm_eps and embedding_rows come from there.
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
        max_nonfinite_steps: int = 20,
        attention_backend: str = AUTO,
        compile: bool = False,
        cuda_graphs: bool = True,
        packed: bool = True,
        type_vocab_size: int = 2,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        embedding_rows: int | None = None,
        pad_token_id: int = 0,
        from_pretrained: str | None = None,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["from_pretrained"])  # a path, and not needed to build the model again
        self.from_pretrained = from_pretrained  # read by continuing.begin, when a run starts
        self.automatic_optimization = False
        self.gradient_clip_val: float | None = None  # largest norm of a step's gradient
        self.seed = 0  # of dropout
        self.consumed = 0  # samples of the data's order that are behind, over all ranks and epochs
        self.validation_due = False  # whether a checkpoint is saved in the middle of a validation
        self.valid_names: list[str] = []  # of the files of the validation, where they are several
        self.backend = "rows"  # of attention; see `choose_attention`
        # Tokens, samples and predicted positions differ from batch to batch: dynamic shapes, or each would be compiled.
        self._compiled = torch.compile(self.measures, dynamic=True) if compile else self.measures
        self.graphs: Graphs | None = None  # of a run; see `on_train_start`
        self.provenance: dict = {}  # what a checkpoint carries along: tokenizer, data, corpus
        self.model = BertForPreTraining(
            BertConfig(
                vocab_size=continuing.require_rows(embedding_rows, vocab_size, from_pretrained),
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size or 4 * hidden_size,
                max_position_embeddings=max_position_embeddings,
                hidden_dropout_prob=hidden_dropout_prob,
                attention_probs_dropout_prob=attention_probs_dropout_prob,
                type_vocab_size=type_vocab_size,
                hidden_act=hidden_act,
                layer_norm_eps=layer_norm_eps,
                pad_token_id=pad_token_id,
                attn_implementation=attention.PREFIX + self.backend,
            )
        )
        self.nonfinite = NonfiniteSteps()

    def leave_out_second_task(self) -> None:
        """For samples without one: what only that task trains has no gradient, for which DDP would wait.

        (Its find_unused_parameters would search the graph of every step for what is known before the first one; a zero
        times these weights in the loss would have adamw decay them.)
        """
        for head in (self.model.bert.pooler, self.model.cls.seq_relationship):
            head.requires_grad_(False)

    def __setattr__(self, name: str, value) -> None:
        """Set an attribute. Lightning notes the hook that it is in thirty times a step: torch need not look at that."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # The step

    def choose_attention(self, device: torch.device, dtype: torch.dtype) -> str:
        """Take the attention backend for a device and the type that attention is computed in; why, in one line."""
        options = self.hparams
        heads, dropout = options.num_attention_heads, options.attention_probs_dropout_prob
        if not options.packed:
            self.backend, reason = "padded", "model.packed is false"
            self.model.set_attn_implementation("sdpa")
            return f"attention: {self.backend}, {reason}"
        self.backend, reason = attention.choose(device, dtype, heads, options.hidden_size // heads, dropout)
        if options.attention_backend != AUTO:
            self.backend, reason = options.attention_backend, "as model.attention_backend says"
        self.model.set_attn_implementation(attention.PREFIX + self.backend)
        return f"attention: {self.backend}, {reason}"

    def forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | None]:
        """MLM logits at the masked positions, (masked, vocab_size), and NSP logits, (samples, 2), of a micro-batch.

        Samples without a second task (no next_sentence_labels) have none of the latter.
        """
        bert, heads = self.model.bert, self.model.cls
        hidden = bert(
            input_ids=batch["input_ids"].unsqueeze(0),
            token_type_ids=batch["token_type_ids"].unsqueeze(0),
            position_ids=batch["position_ids"].unsqueeze(0),
            **(batch.get("attention") or attention.prepare(self.backend, batch)),
        ).last_hidden_state[0]  # (tokens, hidden)
        mlm_logits = heads.predictions(hidden.index_select(0, batch["mlm_positions"]))
        if "next_sentence_labels" not in batch:
            return mlm_logits, None
        places = batch["first_tokens"] if "first_tokens" in batch else batch["cu_seqlens"][:-1]
        first_tokens = hidden.index_select(0, places)  # (samples, hidden): each sample's [CLS]
        return mlm_logits, heads.seq_relationship(bert.pooler(first_tokens.unsqueeze(1)))

    def padded_forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The published step: (MLM logits of all positions, (all, vocab_size), their labels, NSP logits)."""
        longest, cu_seqlens = self.hparams.max_position_embeddings, batch["cu_seqlens"]
        samples = len(cu_seqlens) - 1
        sample = torch.bucketize(torch.arange(len(batch["input_ids"]), device=self.device), cu_seqlens[1:], right=True)
        place = sample * longest + batch["position_ids"]

        def rows(values: torch.Tensor, places: torch.Tensor, padding: int) -> torch.Tensor:
            padded = values.new_full((samples * longest,), padding)
            padded[places] = values
            return padded.view(samples, longest)

        output = self.model(
            input_ids=rows(batch["input_ids"], place, 0),
            token_type_ids=rows(batch["token_type_ids"], place, 0),
            attention_mask=rows(torch.ones_like(place), place, 0),
        )
        labels = rows(batch["mlm_labels"], place[batch["mlm_positions"]], NOT_MASKED).flatten()
        paired = "next_sentence_labels" in batch
        return output.prediction_logits.flatten(0, 1), labels, output.seq_relationship_logits if paired else None

    def measures(self, batch: dict) -> dict[str, torch.Tensor]:
        """Sums over a micro-batch, as named in MEASURED; the two losses keep their gradient.

        Samples without a second task add nothing to nsp_loss and nsp_correct.
        """
        if self.hparams.packed:
            (mlm_logits, nsp_logits), mlm_labels = self(batch), batch["mlm_labels"]
        else:
            mlm_logits, mlm_labels, nsp_logits = self.padded_forward(batch)
        sums = [*_loss_and_correct(mlm_logits, mlm_labels)]
        if nsp_logits is None:
            sums += [torch.zeros_like(sum_.detach()) for sum_ in sums]
        else:
            sums += _loss_and_correct(nsp_logits, batch["next_sentence_labels"])
        return dict(zip(MEASURED, sums, strict=True))

    def training_measures(self, batch: dict) -> dict[str, torch.Tensor]:
        """`measures`, compiled where model.compile is true: but for attention's rows, whose number always changes."""
        if not self.hparams.packed:
            return self._compiled(batch)
        kept = {name: part for name, part in batch.items() if name not in ("places", "rows")}
        return self._compiled(kept | {"attention": attention.prepare(self.backend, batch)})

    def totals(self, batch: dict) -> dict[str, torch.Tensor | int]:
        """`measures` and what they are sums over, as named in TOTALS."""
        return self.measures(batch) | dict(zip(SIZES, _sizes_of(batch), strict=True))

    def training_step(self, step: Step, batch_idx: int) -> None:
        """All of an optimizer step: gradients of its micro-batches, summed; clipping; the update; the learning rate.

        The loss is the mean over the masked tokens and the samples of the whole step, on all ranks together.
        """
        # Dropout is keyed by the step, so that a run that goes on needs no state of random generators.
        self._seed(int(draws.key(self.seed, "dropout", self.global_step, self.global_rank)))
        batches, ranks, every = step.micro_batches(), self.trainer.world_size, self.trainer.log_every_n_steps
        logs = every and (self.global_step + 1) % every == 0  # when Lightning hands metrics on; 0: never
        sums = torch.zeros(len(MEASURED), dtype=torch.float64, device=self.device) if logs else None
        for number, batch in enumerate(batches, start=1):
            with contextlib.nullcontext() if number == len(batches) else self._no_sync():
                predicted = max(1, batch["step_predicted"])  # which may be 0
                weights = predicted / batch["step_samples"], ranks / predicted  # DDP divides by the ranks
                measures = self._replayed(batch, *weights) or self._launched(batch, *weights)
            if logs:
                sums += torch.stack([each.detach().double() for each in measures.values()])
        norm = self._update()
        self.lr_schedulers().step()
        self.consumed = batches[-1]["consumed"]
        if logs:
            sizes = [sum(each) for each in zip(*map(_sizes_of, batches), strict=True)]
            self._log_step(torch.cat([sums, sums.new_tensor(sizes)]), norm, paired="next_sentence_labels" in batch)
        elif self.nonfinite.due:
            self.require_finite()

    def _launched(self, batch: dict, nsp: float, gradient: float) -> dict[str, torch.Tensor]:
        """The measures of a micro-batch, after the backward of `gradient` x (mlm_loss + `nsp` x nsp_loss)."""
        measures = self.training_measures(batch)
        loss = torch.add(measures["mlm_loss"], measures["nsp_loss"], alpha=nsp)
        # Where the loss is not finite, no gradient is: their norm tells all ranks alike to skip the step.
        nothing = loss.detach() * 0  # or nan
        self.manual_backward(loss, gradient=nothing + gradient)
        return measures

    def _replayed(self, batch: dict, nsp: float, gradient: float) -> dict[str, torch.Tensor] | None:
        """The same from a graph; None, and nothing done, without graphs."""
        if self.graphs is None:
            return None
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scaled = gradient if scaler is None else scaler.scale(torch.full((), gradient, device=self.device))
        return self.graphs.run(batch, nsp, scaled)

    def on_train_start(self) -> None:
        """Make room for graphs where they can be used: DDP's exchange of gradients hangs on each single backward."""
        alone, packed = self.trainer.world_size == 1, self.hparams.packed
        if self.hparams.cuda_graphs and self.device.type == "cuda" and alone and packed and self.backend == "varlen":
            self.graphs = Graphs(self.training_measures, list(self.parameters()))

    def on_train_end(self) -> None:
        self.graphs = None

    def _seed(self, seed: int) -> None:
        """Seed the generator that dropout draws from; torch.manual_seed looks for every kind of device, for 0.5 ms."""
        device = self.device
        generator = torch.default_generator if device.type == "cpu" else None
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            generator = torch.cuda.default_generators[index]
        (generator.manual_seed if generator else torch.manual_seed)(seed)

    def _no_sync(self) -> contextlib.AbstractContextManager:
        """Under DDP, gradients are exchanged once a step, after its last micro-batch."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else contextlib.nullcontext()

    def _update(self) -> torch.Tensor:
        """Clip and take the optimizer's step, or skip it where it is not finite, all on the device; the norm before.

        Fused optimizers divide gradients by `grad_scale` and do nothing where `found_inf` is 1 (as for a GradScaler).
        """
        optimizer = self.optimizers()
        inner, scaler = optimizer.optimizer, getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(inner)
        parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
        gradients = [each.grad for each in parameters]
        norm = torch.nn.utils.get_total_norm([each for each in gradients if each is not None])
        finite = torch.isfinite(norm)
        if self.gradient_clip_val:
            inner.grad_scale = (norm / self.gradient_clip_val).clamp(min=1.0).float()
        if scaler is None:
            inner.found_inf = (~finite).float()
        optimizer.step()
        for name in ("grad_scale", "found_inf"):
            if hasattr(inner, name):
                delattr(inner, name)
        if self.graphs is None:
            for each in parameters:
                each.grad = None
        else:
            self.graphs.zero()
        self.nonfinite.add(finite)
        return norm

    def _of_all_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums of this rank, made those of all of them in place."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _log_step(self, sums: torch.Tensor, norm: torch.Tensor, paired: bool) -> None:
        totals = dict(zip(TOTALS, self._of_all_ranks(sums).float(), strict=True))
        mlm_loss = totals["mlm_loss"] / totals["masked_tokens"]
        logged = {
            "train_loss": mlm_loss,
            "train_mlm_loss": mlm_loss,
            "train_mlm_accuracy": totals["mlm_correct"] / totals["masked_tokens"],
            "gradient_norm": norm,
        }
        if paired:
            logged["train_nsp_loss"] = totals["nsp_loss"] / totals["nsp_samples"]
            logged["train_nsp_accuracy"] = totals["nsp_correct"] / totals["nsp_samples"]
            logged["train_loss"] = mlm_loss + logged["train_nsp_loss"]
        values = torch.stack([each.float() for each in logged.values()]).cpu()
        logged = dict(zip(logged, values, strict=True))
        logged["nonfinite_steps"] = torch.tensor(float(self.nonfinite.counts()[2]))
        self.trainer.callback_metrics.update(logged)
        numbers = {name: value.item() for name, value in logged.items()}
        monitoring.log(self.trainer, numbers | {"epoch": self.trainer.current_epoch})
        self.require_finite()

    def require_finite(self) -> None:
        """Raise StageError after too many steps in a row that were not finite; waits for the device."""
        _, most, _ = self.nonfinite.counts()
        if most >= self.hparams.max_nonfinite_steps:
            raise StageError(
                f"the loss or the gradient of {most:,} optimizer steps in a row was not finite (each was skipped): "
                "lower model.lr, raise model.num_warmup_steps, or set trainer.precision: bf16-mixed, and start from an "
                "earlier checkpoint"
            )

    # Validation and test

    @property
    def monitored(self) -> tuple[str, ...]:
        """What a validation measures: MONITORED, and of several files each one's, as val_loss/hospital."""
        return (*self.MONITORED, *(f"{name}/{file}" for file in self.valid_names for name in self.MONITORED))

    def on_validation_epoch_start(self) -> None:
        self.require_finite()
        shape = max(1, len(self.valid_names)), len(TOTALS)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=self.device)  # (files, TOTALS)
        self._sizes = np.zeros((shape[0], len(SIZES)), dtype=np.int64)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, step: Step, batch_idx: int, dataloader_idx: int = 0) -> None:
        for batch in step.micro_batches():
            measures = self.measures(batch).values()
            self._sums[dataloader_idx, : len(MEASURED)] += torch.stack([each.double() for each in measures])
            self._sizes[dataloader_idx] += _sizes_of(batch)

    test_step = validation_step

    def _add_up(self) -> None:
        """Put the sizes beside the sums, and those of all ranks together."""
        self._sums[:, len(MEASURED) :] = torch.from_numpy(self._sizes)
        self._of_all_ranks(self._sums)

    def metrics(self, file: int | None = None) -> dict[str, float | int | None]:
        """Means over everything since the set began, of one file or all, in nats (losses) and shares (accuracies).

        Without a second task the loss is that of the masked tokens, and what concerns NSP is None.
        """
        chosen = self._sums.sum(0) if file is None else self._sums[file]
        sums = dict(zip(TOTALS, chosen.tolist(), strict=True))
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
        self._add_up()
        for number, file in [(None, ""), *((at, f"/{name}") for at, name in enumerate(self.valid_names))]:
            metrics = self.metrics(number)
            for name in self.MONITORED:
                if metrics[name.removeprefix("val_")] is not None:
                    self.log(name + file, metrics[name.removeprefix("val_")], prog_bar=name + file == "val_loss")

    def on_test_epoch_end(self) -> None:
        self._add_up()
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

    def _groups_with_muon(self) -> list[dict]:
        """The same with the matrices of the layers in a group of their own, in front."""
        decayed, spared = self._parameter_groups()
        layers = set(self.model.bert.encoder.parameters())
        matrices, others = (
            decayed | {"params": [p for p in decayed["params"] if (p in layers) == inside]} for inside in (True, False)
        )
        return [matrices | {muon.MATRICES: True}, others | {muon.MATRICES: False}, spared | {muon.MATRICES: False}]

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Fused: one kernel on a GPU, a quarter of the time on a CPU, and it can skip a step without being asked."""
        options = self.hparams
        parameters = {"adam": self.parameters, "muon": self._groups_with_muon}.get(
            options.optimizer, self._parameter_groups
        )
        return OPTIMIZERS[options.optimizer](parameters(), lr=options.lr, fused=True)

    def require_schedule(self, steps: float) -> None:
        """Refuse a schedule that a run of so many optimizer steps (math.inf: without an end) cannot have."""
        options = self.hparams
        if options.lr_schedule == "constant":
            return
        if math.isinf(steps):
            raise StageError(
                f"model.lr_schedule {options.lr_schedule} needs a last step: set trainer.max_steps or "
                "trainer.max_epochs"
            )
        if options.num_warmup_steps >= steps:
            raise StageError(
                f"model.num_warmup_steps is {options.num_warmup_steps:,}, the run has {steps:,} optimizer steps: "
                "lower it, or raise trainer.max_steps"
            )

    def configure_optimizers(self) -> dict:
        options, steps = self.hparams, self.trainer.estimated_stepping_batches
        self.require_schedule(steps)
        optimizer, schedule = self.new_optimizer(), SCHEDULES[options.lr_schedule]
        last = () if options.lr_schedule == "constant" else (int(steps),)
        scheduler = schedule(optimizer, options.num_warmup_steps, *last)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["provenance"] = self.provenance
        checkpoint["consumed_samples"] = self.consumed
        checkpoint["validation_due"] = self.validation_due
