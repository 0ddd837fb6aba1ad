"""The optimizer takes the steps of torch's own, which iterates in bfloat16."""

import torch
from torch import nn

from training.loop import Muon


def test_steps_are_those_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = [(96, 32), (32, 32), (64, 32), (32, 64), (64, 32)]
    ours = [nn.Parameter(torch.randn(*shape, generator=rng)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    muon = Muon(ours, 1e-2, 0.1)
    other = torch.optim.Muon(theirs, 1e-2, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.clone()
        muon.step()
        other.step()
    for start, p, q in zip(before, ours, theirs, strict=True):
        assert (p - q).norm() < 0.02 * (p - start).norm()
