"""Train the embedded tokenizer from scratch and write its weights and its model card's figures.

    python train_tiny_flextok.py

Needed once: the weights are shipped in imagegram/weights/. The training data are the digits (training part,
shifted, turned and scaled a little) and the procedural shapes (training part). A checkpoint is written every
`save_every` steps; the same command resumes from it and ends with the same weights. After `encoder_steps` the encoder
is finished: its averaged weights stay as they are, and the decoder alone goes on. Prints one line per 100 steps:

    step   3600/12500  flow 0.0665  pixels 0.0969  features 0.4903  spread -6.2941  lr 1.5e-03  91 img/s  ETA 85 min

and, every `eval_every` steps, the judge's relative accuracy on held-out reconstructions from 1 to 16 tokens and the
number of codes in use. Log and checkpoint: data/tiny_flextok/. At the end it measures the weights as shipped and writes
the figures and pictures of docs/tiny_flextok.md.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imagegram.common import run_script, write_json
from imagegram.images import preprocess
from imagegram.judge import Judge, train_judge
from imagegram.muon import Muon
from imagegram.report import rows_of_images
from imagegram.shapes import scene
from imagegram.shards import held_out
from imagegram.tiny_flextok import WEIGHTS, TinyFlexTok

Data = tuple[Tensor, Tensor, Tensor]  # images uint8 [N, 3, 32, 32], labels [N], held-out mask [N]
KEEPS = (1, 2, 4, 8, 16)  # prefix lengths that are evaluated


@dataclass
class Config:
    out: Path = Path("data/tiny_flextok")  # checkpoint and log
    weights: Path = WEIGHTS  # what is shipped
    card: Path = Path("docs")  # figures and pictures of the model card
    steps: int = 12_500
    encoder_steps: int = 5_500  # from then on the decoder alone, which needs more of them and takes half the time each
    digits_per_step: int = 24
    shapes_per_step: int = 24
    scenes: int = 60_000  # shapes 0 .. scenes - 1, less the held-out ones
    held_out_share: float = 0.1  # the split of tokenize_fast.py: the tokenizer never saw the held-out images
    learning_rate: float = 1.5e-3  # of AdamW, for everything but the matrices of the blocks
    muon_rate: float = 4e-3  # of Muon, for those; half the steps AdamW needs
    warmup: int = 200  # steps
    decay: float = 0.3  # last share of the steps, over which the rate falls to zero
    weight_decay: float = 0.02
    ema: float = 0.998  # the exponential moving average of the weights is what is shipped
    drop_all: float = 0.1  # share of images whose tokens are all dropped, for the guidance
    pixel_weight: float = 0.5
    feature_weight: float = 0.2
    spread_weight: float = 0.05
    spread_more: int = 3_000  # step from which the spread of the first token, which both data sets share, counts more
    noise_shift: float = 0.7  # mean of the logit of the time; what the tokens decide is decided among much noise
    eval_every: int = 3_000  # steps
    save_every: int = 500  # steps
    seed: int = 0


class Regression(nn.Module):
    """The auxiliary decoder, thrown away after training: prefixes of the codes -> pixels and features of the teacher.

    Its direct gradient keeps the codes from collapsing while the flow decoder does not listen to them yet. It
    answers for every prefix length in KEEPS at once, which is cheap, so that the first tokens learn in every step.
    The features are what FlexTok takes from DINOv2 (REPA, Yu et al., 2025, arXiv:2410.06940): what an image shows,
    beside where its edges are.
    """

    kept: Tensor

    def __init__(self, model: TinyFlexTok, features: int):
        super().__init__()
        c = model.config
        self.sizes = [3 * c.image_size**2, features]
        self.layers = nn.Sequential(
            nn.Linear(c.tokens * len(c.levels), 512), nn.GELU(), nn.Linear(512, sum(self.sizes))
        )
        kept = torch.arange(c.tokens) < torch.tensor(KEEPS)[:, None]
        self.register_buffer("kept", kept[:, None, :, None], persistent=False)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, tokens, D] -> pixels [prefixes, B, 3 * H * W], features [prefixes, B, F]."""
        pixels, features = self.layers((codes * self.kept).flatten(2)).float().split(self.sizes, -1)
        return pixels, features


def load_images(config: Config) -> dict[str, Data]:
    """Both data sets at the tokenizer's size."""
    digits = load_digits()
    pictures = [Image.fromarray((d * (255 / 16)).astype(np.uint8)) for d in digits.images]
    scenes = [scene(0, i) for i in range(config.scenes)]
    data = {
        "digits": (torch.stack([preprocess(p, 32) for p in pictures]), torch.from_numpy(digits.target)),
        "shapes": (
            torch.from_numpy(np.stack([s[0] for s in scenes])).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([s[1] for s in scenes]),
        ),
    }
    return {
        name: (x, y, torch.from_numpy(held_out(np.arange(len(x)), config.held_out_share)))
        for name, (x, y) in data.items()
    }


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turn (7 degrees), scale (10 %), shear and shift (2 pixels) digits on black at random."""
    r = torch.rand(len(images), 5, generator=rng) * 2 - 1
    angle, scale = r[:, 0] * 0.12, 1 + r[:, 1] * 0.1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([cos, -sin + 0.1 * r[:, 2], 0.12 * r[:, 3], sin, cos, 0.12 * r[:, 4]], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside is -1, black


class Teacher(nn.Module):
    """Standardised features of a classifier of digits and shapes, trained on the training parts; not the judge."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.net = Judge(classes)
        self.register_buffer("mean", torch.zeros(256))
        self.register_buffer("deviation", torch.ones(256))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] in [-1, 1] -> features [B, 256]."""
        return ((self.net.features(images) - self.mean) / self.deviation).clamp(-4, 4)


def load_teacher(config: Config, data: dict[str, Data]) -> Teacher:
    """Train the teacher, or read it from beside the checkpoint."""
    (digits, digit, digits_out), (shapes, kind, shapes_out) = data.values()
    path, n_digits = config.out / "teacher.pt", int(digit.max()) + 1
    teacher = Teacher(n_digits + int(kind.max()) + 1)
    if path.exists():
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.eval()
    copies = 20  # of the few digits, for balance
    images = to_float(torch.cat([digits[~digits_out].repeat(copies, 1, 1, 1), shapes[~shapes_out][:30_000]]))
    labels = torch.cat([digit[~digits_out].repeat(copies), kind[~shapes_out][:30_000] + n_digits])
    teacher.net = train_judge(images, labels, 1000, seed=config.seed + 1)
    with torch.no_grad():
        features = torch.cat([teacher.net.features(chunk) for chunk in images[:: len(images) // 5000].split(500)])
    teacher.mean, teacher.deviation = features.mean(0), features.std(0).clamp(min=1e-3)
    temporary = path.with_suffix(".tmp")
    torch.save(teacher.state_dict(), temporary)
    temporary.replace(path)
    return teacher.eval()


def _crowding(latents: Tensor) -> Tensor:
    """Latents [n, tokens, D] -> for every token the log of the mean Gaussian potential between its latents."""
    bounded = latents.tanh().transpose(0, 1)
    distance = (bounded[:, :, None] - bounded[:, None]).square().sum(-1)
    others = ~torch.eye(len(latents), dtype=torch.bool)
    return (-4 * distance[:, others]).exp().mean(1).log()


def losses(
    model: TinyFlexTok,
    regression: Regression,
    teacher: Teacher,
    images: Tensor,
    config: Config,
    rng: torch.Generator,
    step: int,
) -> dict[str, Tensor]:
    """Flow matching, regression of pixels and features, and how crowded the latents are.

    The spread term is the uniformity of Wang & Isola (2020, arXiv:2005.10242) within each data set (the digits come
    first in the batch), so that each uses most of the code book and not a corner of it. The first token is spread over
    both data sets together, else it cannot tell a digit from a scene. Once the encoder is finished, the flow alone.
    """
    n, c, frozen = len(images), model.config, step >= config.encoder_steps
    with torch.set_grad_enabled(not frozen):
        z = model.latents(images)
        codes = model.fsq(z)
    uniform = torch.randint(1, c.tokens + 1, (n,), generator=rng)
    power = 2 ** torch.randint(c.tokens.bit_length(), (n,), generator=rng)  # FlexTok's choice, rich in short prefixes
    keep = torch.where(torch.rand(n, generator=rng) < 0.5, power, uniform)
    keep = torch.where(torch.rand(n, generator=rng) < config.drop_all, 0, keep)
    time = torch.sigmoid(config.noise_shift + torch.randn(n, generator=rng))  # logit-normal
    noise = torch.randn(images.shape, generator=rng)
    mix = time[:, None, None, None]
    velocity = model.velocity((1 - mix) * images + mix * noise, time, codes, keep)
    flow = {"flow": F.mse_loss(velocity.float(), noise - images)}
    if frozen:
        return flow
    pixels, features = regression(codes)
    sizes = [config.digits_per_step, config.shapes_per_step]
    within = torch.stack([_crowding(part) for part in z.split(sizes)]).sum(0)  # of every token
    first = (6 if step >= config.spread_more else 2) * _crowding(z[:, :1])
    spread = torch.cat([first, within[1:]]).mean()
    return flow | {
        "pixels": F.mse_loss(pixels, images.flatten(1).expand_as(pixels)),
        "features": F.mse_loss(features, teacher(images).expand_as(features)),
        "spread": spread,
    }


def load_judges(config: Config, data: dict[str, Data]) -> dict[str, Judge]:
    """Classifiers trained on the real training images of each data set; kept beside the checkpoint."""
    judges = {}
    for name, (images, labels, out) in data.items():
        path = config.out / f"judge_{name}.pt"
        if not path.exists():
            steps = 400 if name == "digits" else 1000
            torch.save(train_judge(to_float(images[~out][:40_000]), labels[~out][:40_000], steps).state_dict(), path)
        judges[name] = Judge(int(labels.max()) + 1)
        judges[name].load_state_dict(torch.load(path, weights_only=True))
        judges[name].eval()
    return judges


@torch.inference_mode()
def evaluate(
    model: TinyFlexTok, judges: dict[str, Judge], data: dict[str, Data], limit: int
) -> dict[str, dict[str, float]]:
    """The card's figures, per data set: accuracy of the judge on real held-out images and, relative to it, on
    reconstructions from k tokens; the fewest and the median number of codes any position uses on training images."""
    report = {}
    for name, (images, labels, out) in data.items():
        x, y = to_float(images[out][:limit]), labels[out][:limit]
        real = (judges[name].probabilities(x).argmax(1) == y).float().mean().item()
        row = {"images": float(len(x)), "real": real}
        tokens = torch.cat(model.tokenize(x))
        for k in KEEPS:
            rng = torch.Generator().manual_seed(k)
            images_k = [
                model.detokenize(chunk[:, :k].split(1), timesteps=10, generator=rng) for chunk in tokens.split(256)
            ]
            right = judges[name].probabilities(torch.cat(images_k)).argmax(1) == y
            row[f"relative_{k}"] = right.float().mean().item() / real
        seen = images[~out][:5000]
        train = torch.cat([torch.cat(model.tokenize(to_float(chunk))) for chunk in seen.split(512)])
        used = [len(train[:, position].unique()) for position in range(train.shape[1])]
        row |= {"codes_min": float(min(used)), "codes_median": float(np.median(used)), "tokenized": float(len(train))}
        report[name] = row
    return report


def train(config: Config) -> TinyFlexTok:
    """Train or resume; returns the averaged model."""
    config.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = config.out / "checkpoint.pt", config.out / "log.jsonl"
    rng = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # initial weights
    model = TinyFlexTok().train()
    regression = Regression(model, features=256)
    average = TinyFlexTok().eval().requires_grad_(False)
    average.load_state_dict(model.state_dict())
    parameters = [*model.parameters(), *regression.parameters()]
    matrices = [
        p
        for blocks in (model.encoder, model.decoder)
        for name, p in blocks.named_parameters()
        if p.ndim == 2 and "modulation" not in name
    ]
    known = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in known]
    adam = torch.optim.AdamW(
        rest, config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    muon = Muon(matrices, config.muon_rate, config.weight_decay)
    schedule = [(group, group["lr"]) for optimizer in (adam, muon) for group in optimizer.param_groups]
    parts: dict[str, Any] = {"model": model, "regression": regression, "average": average, "adam": adam, "muon": muon}
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        rng.set_state(state["rng"])
        step = state["step"]
        known_steps = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in known_steps))
        print(f"resuming from {checkpoint} at step {step}", flush=True)

    data = load_images(config)
    teacher = load_teacher(config, data)
    digits, shapes = (images[~out] for images, _, out in data.values())
    running: dict[str, float] = {}
    batch, started, first = config.digits_per_step + config.shapes_per_step, time.monotonic(), step
    weights = {"flow": 1.0, "pixels": config.pixel_weight}
    weights |= {"features": config.feature_weight, "spread": config.spread_weight}
    half = bool(torch.cpu.get_capabilities()["avx512_bf16"])  # a processor without it is slower in bfloat16
    while step < config.steps:
        if step == config.encoder_steps:
            model.load_state_dict(average.state_dict())
            running, started, first = {}, time.monotonic(), step
        model.latent_norm.train(step < config.encoder_steps)
        rate = min((step + 1) / config.warmup, (config.steps - step) / (config.decay * config.steps), 1)
        for group, full_rate in schedule:
            group["lr"] = rate * full_rate
        rows = torch.randint(len(digits), (config.digits_per_step,), generator=rng)
        others = torch.randint(len(shapes), (config.shapes_per_step,), generator=rng)
        images = torch.cat([jitter(to_float(digits[rows]), rng), to_float(shapes[others])])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts_of_loss = losses(model, regression, teacher, images, config, rng, step)
        loss = sum(weights[name] * value for name, value in parts_of_loss.items())
        assert isinstance(loss, Tensor)
        adam.zero_grad()
        muon.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        muon.step()
        step += 1
        with torch.no_grad():
            momentum = min(config.ema, step / (step + 10))
            for kept, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                kept.lerp_(now, 1 - momentum) if kept.is_floating_point() else kept.copy_(now)
        for name, value in parts_of_loss.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 0:
            speed = (step - first) / (time.monotonic() - started)
            print(
                f"step {step:>6}/{config.steps}  "
                + "  ".join(f"{name} {value:.4f}" for name, value in running.items())
                + f"  lr {rate * config.learning_rate:.1e}  {speed * batch:.0f} img/s"
                f"  ETA {(config.steps - step) / speed / 60:.0f} min",
                flush=True,
            )
            with log.open("a") as f:
                f.write(json.dumps({"step": step} | running) + "\n")
        if step % config.eval_every == 0 and step < config.steps:
            for name, figures in evaluate(average, load_judges(config, data), data, 100).items():
                print(f"  {name}: " + "  ".join(f"{k} {v:.3g}" for k, v in figures.items()), flush=True)
        if step % config.save_every == 0 or step == config.steps:
            temporary = checkpoint.with_suffix(".tmp")
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"rng": rng.get_state(), "step": step}, temporary)
            temporary.replace(checkpoint)
    return average


def plot(config: Config, figures: dict[str, dict[str, float]], path: Path) -> None:
    """Losses against steps, relative accuracy against the number of tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    log = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name in ("flow", "pixels", "features"):
        rows = [row for row in log if name in row]
        left.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
    left.set(xlabel="step", ylabel="loss (running mean)", yscale="log", title="training")
    left.legend()
    for name, row in figures.items():
        right.plot(KEEPS, [row[f"relative_{k}"] for k in KEEPS], "o-", label=name)
    right.set(xlabel="tokens kept", ylabel="accuracy relative to real", ylim=(0, 1.05), title="held-out images")
    right.set_xscale("log", base=2)
    right.set_xticks(KEEPS, [str(k) for k in KEEPS])
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)


def write_card(config: Config) -> None:
    """Measure the weights as shipped, on all held-out digits and 400 held-out scenes; write figures and pictures."""
    model, data = TinyFlexTok.load(config.weights), load_images(config)
    figures = evaluate(model, load_judges(config, data), data, 400)
    config.card.mkdir(parents=True, exist_ok=True)
    write_json(config.card / "tiny_flextok.json", figures)
    print(json.dumps(figures, indent=1))
    shown = torch.cat([images[out][:10] for images, _, out in data.values()])
    tokens = torch.cat(model.tokenize(to_float(shown)))
    rows = [("original", shown)]
    for k in KEEPS:
        noise = [torch.Generator().manual_seed(i) for i in range(len(shown))]
        images = model.detokenize(tokens[:, :k].split(1), timesteps=20, generator=noise)
        rows.append((f"{k} token{'s' * (k > 1)}", ((images.clamp(-1, 1) + 1) * 127.5).byte()))
    rows_of_images(rows).save(config.card / "tiny_flextok_reconstructions.png")
    plot(config, figures, config.card / "tiny_flextok_training.png")


def main(config: Config) -> None:
    torch.set_flush_denormal(True)  # what GELU leaves of large negative numbers slows products down many times
    model = train(config)
    config.weights.parent.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) for k, v in asdict(config).items()}
    model.save(config.weights, {"training": json.dumps(settings)})
    print(f"wrote {config.weights} ({config.weights.stat().st_size / 1e6:.1f} MB)")
    write_card(config)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
