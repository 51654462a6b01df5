"""Forward and backward of a micro-batch as a CUDA graph: one launch instead of some two thousand.

A graph replays the kernels of a micro-batch without the CPU's doing, but for fixed shapes at fixed addresses. So a
micro-batch is padded to one of a few lengths, 1 % more tokens on average; its padding tokens make samples of their own.
Each length is captured when it is first met.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from bert_ja.cli import say
from bert_ja.samples import NOT_MASKED

MOST = 64  # graphs that are kept; further shapes are launched one by one
PARTS = 32  # a length is rounded up to a multiple of a power of two, at most this part of it
LEAST = 128  # tokens of that multiple at least
PADDING = {"input_ids": 0, "token_type_ids": 0, "position_ids": 0}  # values at the tokens added
WEIGHTS = ("nsp", "gradient")  # of the step's loss, see `Graphs.run`


class Shape(NamedTuple):
    """What a graph is captured for."""

    tokens: int
    predicted: int
    samples: int
    longest: int
    paired: bool


def rounded(size: int, step: int) -> int:
    """The next multiple: (300, 128) -> 384."""
    return -(-size // step) * step


def step_of(tokens: int) -> int:
    """The multiple that a length is rounded up to: 15,360 tokens -> 256."""
    return max(LEAST, 1 << max(0, (tokens // PARTS).bit_length() - 1))


def shape_of(batch: dict) -> Shape:
    """The shape that a micro-batch of dataset.Step is padded to."""
    tokens, predicted = len(batch["input_ids"]), len(batch["mlm_labels"])
    step = step_of(tokens)
    longest = rounded(batch["longest"], LEAST)
    return Shape(
        rounded(tokens, step),
        rounded(predicted, step),
        len(batch["cu_seqlens"]) - 1,
        longest,
        "next_sentence_labels" in batch,
    )


def empty(shape: Shape, device: torch.device) -> dict:
    """A micro-batch of this shape whose numbers are to be filled in.

    `cu_seqlens` (samples + 1 + spare,) ends with samples of padding tokens, LEAST each at most; `first_tokens` are the
    samples' own.
    """

    def zeros(size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.int64, device=device)

    spare = step_of(shape.tokens) // LEAST + 1
    batch = {name: zeros(shape.tokens) for name in PADDING}
    batch |= {"mlm_positions": zeros(shape.predicted), "mlm_labels": zeros(shape.predicted)}
    batch |= {"cu_seqlens": zeros(shape.samples + 1 + spare), "first_tokens": zeros(shape.samples)}
    if shape.paired:
        batch["next_sentence_labels"] = zeros(shape.samples)
    return batch | {"longest": shape.longest}


def fill(static: dict, batch: dict) -> None:
    """Put a micro-batch into an `empty` one of its shape, all on the device."""
    tokens, samples = len(batch["input_ids"]), len(batch["cu_seqlens"]) - 1
    for name, value in PADDING.items():
        static[name][:tokens].copy_(batch[name])
        static[name][tokens:].fill_(value)
    predicted = len(batch["mlm_labels"])
    static["mlm_positions"][:predicted].copy_(batch["mlm_positions"])
    static["mlm_positions"][predicted:].fill_(0)
    static["mlm_labels"][:predicted].copy_(batch["mlm_labels"])
    static["mlm_labels"][predicted:].fill_(NOT_MASKED)
    ends, whole = static["cu_seqlens"], len(static["input_ids"])
    ends[: samples + 1].copy_(batch["cu_seqlens"])
    torch.arange(tokens + LEAST, tokens + LEAST * (len(ends) - samples), LEAST, out=ends[samples + 1 :])
    ends[samples + 1 :].clamp_(max=whole)
    static["first_tokens"].copy_(batch["cu_seqlens"][:-1])
    if "next_sentence_labels" in batch:
        static["next_sentence_labels"].copy_(batch["next_sentence_labels"])


class Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: dict
    measures: dict[str, torch.Tensor]


@contextlib.contextmanager
def uncached_autocast(device_type: str) -> Iterator[None]:
    """The autocast that is in force, without its cache: a graph must cast the weights of the day anew."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False):
        yield


class Graphs:
    """The graphs of a run, by shape. `measures` maps a micro-batch to sums with `mlm_loss` and `nsp_loss` among them.

    Gradients are added to those that the parameters have, which therefore stay where they are: `zero` instead of None.
    """

    def __init__(self, measures: Callable[[dict], dict[str, torch.Tensor]], parameters: list[torch.nn.Parameter]):
        self._measures = measures
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._device = self._parameters[0].device
        self._weights = {name: torch.zeros((), device=self._device) for name in WEIGHTS}
        self._captured: dict[Shape, Captured] = {}
        self._full = False  # whether there was no room for a graph
        # Graphs are replayed one after another, so that they can share their memory, which is a stream's own.
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device)
        self.attach()

    def attach(self) -> None:
        """Give the parameters the gradients that graphs add to, which Lightning takes away before a validation."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def zero(self) -> None:
        """Set all gradients to zero, where they are."""
        torch._foreach_zero_(self._gradients)

    def _forward_backward(self, batch: dict) -> dict[str, torch.Tensor]:
        with uncached_autocast("cuda"):
            measures = self._measures(batch)
            loss = measures["mlm_loss"] + self._weights["nsp"] * measures["nsp_loss"]
        weight = self._weights["gradient"] + loss.detach() * 0  # nan where the loss is not finite
        gradients = torch.autograd.grad(loss, self._parameters, weight)
        torch._foreach_add_(self._gradients, gradients)
        return {name: each.detach() for name, each in measures.items()}

    def _warm_up(self, shape: Shape, batch: dict) -> dict:
        """Run a micro-batch once, for what libraries set up at first; gradients and random numbers stay.

        What is to be captured: the micro-batch at its fixed addresses.
        """
        generator = torch.cuda.default_generators[self._device.index or 0]
        kept, offset = [gradient.clone() for gradient in self._gradients], generator.get_offset()
        try:
            static = empty(shape, self._device)
            fill(static, batch)
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                self._forward_backward(static)
            return static
        finally:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            torch._foreach_copy_(self._gradients, kept)
            generator.set_offset(offset)

    def _capture(self, static: dict) -> Captured:
        graph, mode = torch.cuda.CUDAGraph(), "thread_local"  # the loader's thread pins memory meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            measures = self._forward_backward(static)
        return Captured(graph, static, measures)

    def _captured_for(self, shape: Shape, batch: dict) -> Captured | None:
        """The graph of a shape; None, and no graphs from here on, where the memory does not suffice to make it."""
        if shape not in self._captured:
            try:
                static = self._warm_up(shape, batch)
            except torch.OutOfMemoryError:
                self.give_up()
                return None
            self._captured[shape] = self._capture(static)
        return self._captured[shape]

    def give_up(self) -> None:
        """Launch everything from here on, and give back the memory of graphs."""
        say("too little memory for CUDA graphs: kernels are launched one by one from here on")
        self._full = True
        self._captured.clear()
        torch.cuda.empty_cache()

    def prepare(self, batch: dict) -> None:
        """Capture a micro-batch that is at least as large as those that will come, whose memory they then share.

        The pool grows with each shape that is larger than all before.
        """
        self.attach()
        self._captured_for(shape_of(batch), batch)

    def run(self, batch: dict, nsp: float, gradient: float | torch.Tensor) -> dict[str, torch.Tensor] | None:
        """The measures of a micro-batch, after adding the gradient of `gradient` x (mlm_loss + `nsp` x nsp_loss).

        They are overwritten by the next one. None, and nothing done, where there are MOST graphs or no room for more.
        """
        self.attach()
        shape = shape_of(batch)
        if self._full or (shape not in self._captured and len(self._captured) >= MOST):
            return None
        for name, value in zip(WEIGHTS, (nsp, gradient), strict=True):
            self._weights[name].copy_(value) if torch.is_tensor(value) else self._weights[name].fill_(value)
        captured = self._captured_for(shape, batch)
        if captured is None:
            return None
        fill(captured.batch, batch)
        captured.graph.replay()
        return captured.measures
