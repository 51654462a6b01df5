"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon) moves a matrix by its momentum
made orthogonal, which means something for a matrix that maps vectors to vectors only: not for embeddings, biases,
LayerNorms and heads. Its update is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training",
section 2.2), so that both take one learning rate and one weight decay.
"""

import torch

MATRICES = "muon"  # key of a parameter group: whether it is Muon's


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon and a fused torch.optim.AdamW behind one state and one list of parameter groups.

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
        """torch's Muon knows neither: gradients are divided before it, and what it changed is put back behind it."""
        parameters = [p for group in self._muon.param_groups for p in group["params"] if p.grad is not None]
        if scale is not None:
            torch._foreach_div_([p.grad for p in parameters], scale)
        if skipped is None:
            self._muon.step()
            return
        momenta = [self._momentum(p) for p in parameters]
        changed = [*parameters, *momenta]
        before = [tensor.clone() for tensor in changed]
        self._muon.step()
        for tensor, kept in zip(changed, before, strict=True):
            tensor.copy_(torch.where(skipped.bool(), kept, tensor))

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        """Muon's momentum of a parameter, which it would make in its own first step."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        return state["momentum_buffer"]
