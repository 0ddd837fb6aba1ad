"""The optimizer of the matrices of the embedded tokenizer's blocks."""

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalized by five Newton-Schulz iterations, for matrices (Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon/), scaled to the size of AdamW's steps (Liu et al., 2025,
    arXiv:2502.16982). In float32, matrices of a shape together: torch.optim.Muon iterates in bfloat16, in which many
    processors multiply fifty times as slowly."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        trained = [p for p in group["params"] if p.grad is not None]
        for shape in {p.shape for p in trained}:
            alike = [p for p in trained if p.shape == shape]
            for p in alike:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
            x = torch.stack([p.grad.lerp(self.state[p]["momentum"], 0.95) for p in alike])
            x = x.mT.contiguous() if shape[0] > shape[1] else x
            x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
            for _ in range(5):
                gram = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
            x = x.mT if shape[0] > shape[1] else x
            for p, direction in zip(alike, x, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])
