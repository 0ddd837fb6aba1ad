"""The training loop of both halves of the embedded tokenizer: resumable, and it ends with averaged
weights.

Muon trains the matrices of the blocks, AdamW the rest. The learning rates rise over the first
steps, stay, and fall to zero over the last share of the steps (a trapezoid; Hägele et al., 2024,
arXiv:2405.18392).
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagegram.files import atomic
from imagegram.machine import has_bfloat16

ADAM_RATE = 1.5e-3  # of everything but the matrices of the blocks
MUON_RATE = 4e-3  # of those; half the steps AdamW needs
WARMUP = 200  # steps
DECAY = 0.3  # last share of the steps, over which the rates fall to zero
WEIGHT_DECAY = 0.02
EMA = 0.998  # the exponential moving average of the weights is what is kept
SAVE_EVERY = 500  # steps
SHOW_EVERY = 100  # steps
SHOW_SECONDS = 5  # where steps are slow: no silence reaches 10

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One training: of the encoder, or of the decoder."""

    name: str  # of its files, NAME.pt and NAME.jsonl
    steps: int
    batch: int  # images a step
    seed: int  # of everything drawn
    weights: dict[str, float]  # of the losses


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalized by five Newton-Schulz iterations, for matrices
    (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/), scaled to the size of AdamW's
    steps (Liu et al., 2025, arXiv:2502.16982). In float32, matrices of a shape together:
    torch.optim.Muon iterates in bfloat16, in which many processors multiply fifty times as
    slowly."""

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
                second = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
                x = torch.baddbmm(x, second, x, beta=3.4445)
            x = x.mT if shape[0] > shape[1] else x
            for p, direction in zip(alike, x, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])


class State:
    """What a checkpoint holds: the part that is trained, its average, the optimizers, the generator
    and the step."""

    def __init__(self, part: nn.ModuleList, seed: int):
        self.part = part.train().requires_grad_(True)
        self.average = copy.deepcopy(part).eval().requires_grad_(False)
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, weights in part.named_parameters():
            of_block = "blocks" in name and weights.ndim == 2 and "modulation" not in name
            (matrices if of_block else rest).append(weights)
        betas = (0.9, 0.98)
        self.adam = torch.optim.AdamW(rest, ADAM_RATE, betas, weight_decay=WEIGHT_DECAY, fused=True)
        self.muon = Muon(matrices, MUON_RATE, WEIGHT_DECAY)
        self.rng = torch.Generator().manual_seed(seed)
        self.step = 0
        self.running: dict[str, float] = {}  # means of the losses

        both = {"part": self.part, "average": self.average}
        self.kept: dict[str, Any] = both | {"adam": self.adam, "muon": self.muon}

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {key: part.state_dict() for key, part in self.kept.items()}
        state |= {"rng": self.rng.get_state(), "step": self.step, "running": self.running}
        with atomic(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        # a GPU's checkpoint goes on without one
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key, part in self.kept.items():
            part.load_state_dict(state[key])
        self.rng.set_state(state["rng"])
        self.step = state["step"]
        self.running = state["running"]

    def update(self, values: Losses, weights: dict[str, float], rate: float) -> None:
        """One step on the weighted sum of the losses, at `rate` times the full learning rates."""
        for optimizer, full_rate in ((self.adam, ADAM_RATE), (self.muon, MUON_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * full_rate

        self.adam.zero_grad()
        self.muon.zero_grad()
        torch.stack([weights[key] * value for key, value in values.items()]).sum().backward()
        nn.utils.clip_grad_norm_(self.part.parameters(), 1.0)
        self.adam.step()
        self.muon.step()
        self.step += 1

        momentum = min(EMA, self.step / (self.step + 10))
        kept, now = self.average.state_dict(), self.part.state_dict()
        floats = [name for name, values in kept.items() if values.is_floating_point()]
        averages, latest = ([state.pop(name) for name in floats] for state in (kept, now))
        torch._foreach_lerp_(averages, latest, 1 - momentum)
        for name, counter in kept.items():
            counter.copy_(now[name])
        for key, value in values.items():
            self.running[key] = 0.98 * self.running.get(key, value.item()) + 0.02 * value.item()


def fit(
    stage: Stage, part: nn.ModuleList, losses: Callable[[torch.Generator], Losses], folder: Path
) -> None:
    """Train `part` in place, or resume from `folder`/NAME.pt; it ends with its averaged weights.

    `losses` draws a batch and returns its losses, which the stage weighs; they go to NAME.jsonl.
    """
    checkpoint = folder / f"{stage.name}.pt"
    log = folder / f"{stage.name}.jsonl"
    state = State(part, stage.seed)
    log.touch()
    if checkpoint.exists():
        state.load(checkpoint)
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= state.step))
        print(f"{stage.name}: resuming from {checkpoint} at step {state.step}", flush=True)

    started = shown = time.monotonic()
    first = state.step
    device = next(part.parameters()).device.type
    half = device == "cuda" or has_bfloat16()
    while state.step < stage.steps:
        rate = min((state.step + 1) / WARMUP, (stage.steps - state.step) / (DECAY * stage.steps), 1)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            values = losses(state.rng)
        state.update(values, stage.weights, rate)

        last = state.step == stage.steps
        logged = state.step % SHOW_EVERY == 0 or last
        if logged or time.monotonic() - shown > SHOW_SECONDS:
            shown = time.monotonic()
            _show(stage, state, rate, (state.step - first) / (shown - started))
        if logged:
            with log.open("a") as f:
                f.write(json.dumps({"step": state.step} | state.running) + "\n")
        if state.step % SAVE_EVERY == 0 or last:
            state.save(checkpoint)

    part.load_state_dict(state.average.state_dict())
    part.eval().requires_grad_(False)


def _show(stage: Stage, state: State, rate: float, speed: float) -> None:
    """One line; `speed` in steps a second."""
    means = "  ".join(f"{key} {value:.4f}" for key, value in state.running.items())
    minutes = (stage.steps - state.step) / speed / 60
    print(
        f"{stage.name} step {state.step:>6}/{stage.steps}  {means}  lr {rate * ADAM_RATE:.1e}  "
        f"{speed * stage.batch:.0f} img/s  ETA {minutes:.0f} min",
        flush=True,
    )
