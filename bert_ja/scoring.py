"""A masked language model that is asked: what it makes of masked positions, and whether one line follows another.

Rows of about the same length go through the model together, and only the masked positions through the vocabulary-sized
head, where the model is a BERT.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bert_ja import devices, model_folder, parity, tokenization
from bert_ja.cli import StageError, require

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}  # of a batch, padding with them
ALL_POSITIONS = 4  # as many times fewer where all positions go through the head, which is as wide as the vocabulary
SECOND_TASK = ("bert.pooler.", "cls.seq_relationship.")  # what only next-sentence prediction needs
NO_HEAD = "name a model that was trained as a masked language model, such as export_model.py writes"


class Row(NamedTuple):
    """A sentence with masks in it, and what stood there."""

    ids: np.ndarray  # int64 (tokens,), special tokens among them
    places: np.ndarray  # int64 (masked,), positions in ids that are asked for
    truths: np.ndarray  # int64 (masked,), their ids


class Guesses(NamedTuple):
    """The likeliest tokens at the places of a row."""

    log_probabilities: np.ndarray  # float32 (masked, k), falling
    ids: np.ndarray  # int64 (masked, k)


# The device


def choose_device(accelerator: str, precision: str) -> torch.device:
    """The device of --accelerator auto, cpu or cuda: auto is an NVIDIA card where torch can use one.

    Raises StageError where there is none, and for a half precision that the device emulates or does not have.
    """
    require(
        {
            f"--accelerator must be auto, cpu or cuda, got {accelerator}": accelerator in ACCELERATORS,
            f"--precision must be fp32, bf16 or fp16, got {precision}": precision in PRECISIONS,
        }
    )
    cards, reason = ((), "") if accelerator == "cpu" else devices.torch_cards()
    if accelerator == "cuda" and not cards:
        raise StageError(f"--accelerator cuda: torch can use no card here ({reason}): leave it out to use the CPU")
    device = torch.device("cuda" if cards else "cpu")
    if device.type == "cpu" and precision == "fp16":
        raise StageError("--precision fp16 is for a GPU, and this is done on the CPU: leave it out")
    if device.type == "cpu" and devices.precision_warning(devices.read_facts(False), "cpu", precision):
        raise StageError(
            f"--precision {precision} is slow on this CPU, which has neither amx_bf16 nor avx512_bf16: leave it out"
        )
    return device


# Loading


def _folder_model(folder: Path):
    """(the model of a folder in float32, names of weights that the folder lacks)."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options = {"dtype": torch.float32, "output_loading_info": True, "local_files_only": True}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = transformers.BertForPreTraining if config.model_type == "bert" else transformers.AutoModelForMaskedLM
        model, loading = kind.from_pretrained(folder, **options)
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        reason = " ".join(str(error).split())[:120]
        raise StageError(f"{folder} does not load as a masked language model ({reason}): {NO_HEAD}") from None
    return model.eval(), set(loading["missing_keys"])


def _require_fit(measured: model_folder.Measured, tokenizer, model, missing: set[str]) -> None:
    """Refuse a model without a masked-LM head of its own, and a tokenizer that is another model's."""
    folder = measured.folder
    if tokenizer.mask_token_id is None:
        raise StageError(f"the tokenizer of {folder} has no mask token: {NO_HEAD}")
    if lacking := sorted(name for name in missing if not name.startswith(SECOND_TASK)):
        raise StageError(f"{folder} has no whole masked-LM head, {lacking[0]} is missing: {NO_HEAD}")
    rows, size = model.get_input_embeddings().num_embeddings, 1 + max(tokenizer.get_vocab().values())
    if size > rows:
        raise StageError(
            f"the tokenizer of {folder} has {size:,} pieces, its model {rows:,}: copy the tokenizer that the model was "
            "trained with"
        )


def _second_task_problem(measured: model_folder.Measured, model, missing: set[str]) -> str | None:
    """Why a model cannot tell whether lines follow each other; None where it was trained to."""
    if model.config.model_type != "bert" or any(name.startswith(SECOND_TASK) for name in missing):
        return f"{measured.name} has no next-sentence head"
    if measured.objective in ("none", "sop"):
        return f"{measured.name} was trained with objective {measured.objective}"
    return None


# Asking


class MaskedModel:
    """A model folder, ready to be asked on a device; `batch_tokens` and `precision` change speed, hardly results.

    `no_second_task` says why `follows` cannot be asked, None where it can. Raises StageError where the folder is no
    masked language model with its tokenizer; the vocabulary of a `private` one is not quoted in errors.
    """

    def __init__(
        self,
        measured: model_folder.Measured,
        device: torch.device,
        precision: str = "fp32",
        batch_tokens: int | None = None,
        private: bool = False,
    ):
        self.name, self.device, self.dtype = measured.name, device, PRECISIONS[precision]
        self.tokenizer = tokenizer = tokenization.load_tokenizer(measured.folder, private or measured.private)
        model, missing = _folder_model(measured.folder)
        _require_fit(measured, tokenizer, model, missing)
        self.no_second_task = _second_task_problem(measured, model, missing)
        self.is_bert = model.config.model_type == "bert"
        self.longest = model_folder.longest_input(model.config, tokenizer)  # tokens of a row, special ones among them
        self.batch_tokens = batch_tokens or BATCH_TOKENS[device.type] // (1 if self.is_bert else ALL_POSITIONS)
        self.mask, self._pad = tokenizer.mask_token_id, tokenizer.pad_token_id or 0
        ends = ((tokenizer.cls_token_id, tokenizer.bos_token_id), (tokenizer.sep_token_id, tokenizer.eos_token_id))
        self.before, self.behind = ([token for token in pair if token is not None][:1] for pair in ends)
        self._types = getattr(model.config, "type_vocab_size", 1)
        self._model = model.to(device)

    def row(self, ids: Sequence[int]) -> np.ndarray:
        """[CLS] A [SEP], int64 (tokens,)."""
        return np.array([*self.before, *ids, *self.behind], dtype=np.int64)

    def _pair(self, first: list[int], second: list[int]) -> tuple[np.ndarray, int]:
        """([CLS] A [SEP] B [SEP], where B begins), cut token by token from the longer part where it is too long."""
        room = self.longest - len(self.before) - 2 * len(self.behind)
        lengths = parity.cut_lengths([len(first), len(second)], room)
        row = self.row([*first[: lengths[0]], *self.behind, *second[: lengths[1]]])
        return row, len(row) - lengths[1] - len(self.behind)

    def _batches(self, rows: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Numbers of rows that go through the model together: of about one length, the longest first."""
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(-lengths, kind="stable")
        at = 0
        while at < len(order):
            size = max(1, self.batch_tokens // int(lengths[order[at]]))
            yield order[at : at + size]
            at += size

    def _padded(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Ids and attention mask, int64 (rows, longest of them), on the device."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return {
            "input_ids": torch.from_numpy(ids).to(self.device),
            "attention_mask": torch.from_numpy(mask).to(self.device),
        }

    @contextlib.contextmanager
    def _forward(self) -> Iterator[None]:
        half = self.dtype != torch.float32
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=half):
                yield
        except torch.OutOfMemoryError:
            raise StageError(
                f"{self.device} has too little memory for batches of {self.batch_tokens:,} tokens: pass "
                f"--batch_tokens {max(1, self.batch_tokens // 4)}"
            ) from None

    def _log_probabilities(self, rows: Sequence[Row]) -> torch.Tensor:
        """Of all pieces at all places of the rows, one row after another: float32 (masked, rows of the head)."""
        inputs = self._padded([row.ids for row in rows])
        numbers = np.repeat(np.arange(len(rows)), [len(row.places) for row in rows])
        numbers, places = map(torch.from_numpy, (numbers, np.concatenate([row.places for row in rows])))
        numbers, places = numbers.to(self.device), places.to(self.device)
        if self.is_bert:
            logits = self._model.cls.predictions(self._model.bert(**inputs).last_hidden_state[numbers, places])
        else:
            logits = self._model(**inputs).logits[numbers, places]
        return logits.float().log_softmax(-1)

    def _require_finite(self, values: torch.Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise StageError(
                f"{self.name} gives logits that are not finite: the run diverged or the weights are damaged, measure "
                f"an earlier checkpoint{'' if self.dtype == torch.float32 else ', or pass --precision fp32'}"
            )

    def log_probabilities(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The natural logarithm of the probability of each row's truths, float32 (masked,) a row."""
        found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
        for numbers in self._batches([row.ids for row in rows]):
            batch = [rows[number] for number in numbers]
            truths = torch.from_numpy(np.concatenate([row.truths for row in batch])).to(self.device)
            with self._forward():
                values = self._log_probabilities(batch).gather(1, truths[:, None])[:, 0]
                self._require_finite(values)
            ends = np.cumsum([len(row.places) for row in batch])[:-1]
            for number, part in zip(numbers, np.split(values.cpu().numpy(), ends), strict=True):
                found[number] = part
        return found

    def guesses(self, rows: Sequence[Row], k: int) -> list[Guesses]:
        """The k likeliest pieces at each place of each row, by itself."""
        found: list[Guesses | None] = [None] * len(rows)
        for numbers in self._batches([row.ids for row in rows]):
            batch = [rows[number] for number in numbers]
            with self._forward():
                every = self._log_probabilities(batch)
                values, ids = every.topk(min(k, every.shape[1]))
                self._require_finite(values)
            ends = np.cumsum([len(row.places) for row in batch])[:-1]
            parts = zip(np.split(values.cpu().numpy(), ends), np.split(ids.cpu().numpy(), ends), strict=True)
            for number, part in zip(numbers, parts, strict=True):
                found[number] = Guesses(*part)
        return found

    def follows(self, pairs: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        """Whether the model takes B for the line behind A, bool (pairs,), for ids of A and B."""
        rows, found = [self._pair(*pair) for pair in pairs], np.zeros(len(pairs), dtype=bool)
        for numbers in self._batches([row for row, _ in rows]):
            inputs = self._padded([rows[number][0] for number in numbers])
            if self._types > 1:
                places = torch.arange(inputs["input_ids"].shape[1], device=self.device)
                begins = torch.tensor([rows[number][1] for number in numbers], device=self.device)
                inputs["token_type_ids"] = (places >= begins[:, None]).long() * inputs["attention_mask"]
            with self._forward():
                logits = self._model.cls.seq_relationship(self._model.bert(**inputs).pooler_output).float()
                self._require_finite(logits)
            found[numbers] = (logits.argmax(-1) == 0).cpu().numpy()
        return found
