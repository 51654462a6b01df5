"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon) moves a matrix by its momentum
made orthogonal, which means something for a matrix that maps vectors to vectors only: not for embeddings, biases,
LayerNorms and heads. Its update is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training",
section 2.2), so that both take one learning rate and one weight decay.
"""

import math
from collections import defaultdict

import torch

MATRICES = "muon"  # key of a parameter group: whether it is Muon's
SIZE = 0.2  # root of the mean square of an update, as AdamW's


def orthogonalized(matrices: torch.Tensor, group: dict) -> torch.Tensor:
    """Matrices (count, rows, columns) with singular values near 1, by Newton-Schulz iterations of all at once.

    The same as torch.optim.Muon does for each, in bf16; on a CPU in fp32, as one that knows no bf16 takes many times as
    long with it. `group` holds ns_coefficients, ns_steps and eps.
    """
    a, b, c = group["ns_coefficients"]
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    found = found.mT if tall else found
    found = found / torch.linalg.vector_norm(found, dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon and a fused torch.optim.AdamW behind one state and one list of parameter groups.

    Muon's step is our own: torch's takes the matrices one by one, some 1,600 kernels for BERT base, which a GPU waits
    for; this one takes all of a shape together.

    Like a fused optimizer it divides gradients by `grad_scale` and does nothing where `found_inf` is 1, without asking
    the device; both are tensors that whoever calls `step` may set (torch.amp.GradScaler does).

    Args:
        groups: Parameter groups; those with MATRICES true hold matrices only, and are Muon's.
    """

    _step_supports_amp_scaling = True  # read by GradScaler

    def __init__(self, groups: list[dict], lr: float, fused: bool = True):
        matrices = [group for group in groups if group[MATRICES]]
        others = [group for group in groups if not group[MATRICES]]
        self._muon = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, lr=lr, fused=fused)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": lr})

    def _share(self) -> None:
        """Let both work on the groups and the state of this optimizer, which loading a checkpoint makes anew."""
        for inner, is_muon in ((self._muon, True), (self._adamw, False)):
            inner.param_groups = [group for group in self.param_groups if group[MATRICES] == is_muon]
            inner.state = self.state

    @torch.no_grad()
    def step(self, closure=None):
        """One optimizer step; what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share()
        scale, skipped = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        self._step_adamw(scale, skipped)
        self._step_muon(scale, skipped)
        return loss

    def _step_adamw(self, scale: torch.Tensor | None, skipped: torch.Tensor | None) -> None:
        self._adamw.grad_scale, self._adamw.found_inf = scale, skipped
        self._adamw.step()

    def _step_muon(self, scale: torch.Tensor | None, skipped: torch.Tensor | None) -> None:
        for group in self._muon.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._step_matrices(parameters, group, scale, skipped)

    def _step_matrices(
        self, parameters: list[torch.Tensor], group: dict, scale: torch.Tensor | None, skipped: torch.Tensor | None
    ) -> None:
        """A step of matrices of one shape; one that is skipped neither moves nor decays, and keeps the momentum."""
        rate, momenta = group["lr"], list(map(self._momentum, parameters))
        gradient, momentum = torch.stack([parameter.grad for parameter in parameters]), torch.stack(momenta)
        if scale is not None:
            gradient /= scale
        if skipped is not None:
            gradient = torch.where(skipped.bool(), momentum, gradient)
        momentum.lerp_(gradient, 1 - group["momentum"])
        move = orthogonalized(gradient.lerp(momentum, group["momentum"]), group)  # Nesterov's
        move = move.to(gradient.dtype, memory_format=torch.contiguous_format)
        move *= -rate * SIZE * math.sqrt(max(move.shape[1:]))
        decay = 1 - rate * group["weight_decay"]
        if skipped is not None:
            move *= 1 - skipped
            decay = decay + (1 - decay) * skipped
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, list(move.unbind()))

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        """The momentum of a matrix, zero before its first step."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]
