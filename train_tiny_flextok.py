"""Train the embedded tokenizer from scratch and write its weights and its model card's figures.

    .venv/bin/python train_tiny_flextok.py

Needed once: the weights are shipped in imagegram/codec/weights/. The training data are the digits (training part,
shifted, turned and scaled a little) and the procedural shapes (training part). First the encoder is trained, with a
regression of pixels and features, then the flow decoder on the finished encoder's tokens. Checkpoints are written every
500 steps; the same command resumes from them and ends with the same weights. Prints one line per 100 steps:

    decoder step  10100/18000  flow 0.0616  alignment 0.1840  lr 1.5e-03  415 img/s  ETA 15 min

and, every `eval_every` steps of the decoder, the judge's relative accuracy on held-out reconstructions from 1 to 16
tokens and the number of codes in use. Logs and checkpoints: data/tiny_flextok/. At the end it measures the weights as
shipped and writes the figures and pictures of docs/tiny_flextok.md.
"""

import copy
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imagegram.cli import run_script
from imagegram.codec.tiny import TinyCodec
from imagegram.codec.tiny_flextok import WEIGHTS, TinyFlexTok
from imagegram.data.pixels import preprocess
from imagegram.data.shapes import scene
from imagegram.files import atomic, write_json
from imagegram.measure.classifier import Judge, train_judge
from imagegram.report.sheets import rows_of_images
from imagegram.tokens import held_out
from imagegram.training.loop import Stage, fit
from imagegram.training.losses import (
    KEEPS,
    Alignment,
    Regression,
    Teacher,
    decoder_losses,
    encoder_losses,
    jitter,
    to_float,
)

Data = tuple[Tensor, Tensor, Tensor]  # images uint8 [N, 3, 32, 32], labels [N], held-out mask [N]


@dataclass
class Config:
    out: Path = Path("data/tiny_flextok")  # checkpoints and logs
    weights: Path = WEIGHTS  # what is shipped
    card: Path = Path("docs")  # figures and pictures of the model card
    encoder_steps: int = 10_000
    decoder_steps: int = 18_000
    digits_per_step: int = 24
    scenes_per_step: int = 24
    scenes: int = 60_000  # shapes 0 .. scenes - 1, less the held-out ones
    held_out_share: float = 0.1  # the split of tokenize_fast.py: the tokenizer never saw the held-out images
    pixel_weight: float = 0.5  # of the encoder's losses
    feature_weight: float = 0.2
    spread_weight: float = 0.05
    alignment_weight: float = 0.5  # of the decoder's
    drop_all: float = 0.1  # share of images whose tokens are all dropped, for the guidance
    noise_shift: float = 0.7  # mean of the logit of the time; what the tokens decide is decided among much noise
    eval_every: int = 3_000  # steps of the decoder
    seed: int = 0


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


def load_teacher(config: Config, data: dict[str, Data]) -> Teacher:
    """Train the teacher, or read it from beside the checkpoints."""
    (digits, digit, digits_out), (shapes, kind, shapes_out) = data.values()
    path, n_digits = config.out / "teacher.pt", int(digit.max()) + 1
    teacher = Teacher(n_digits + int(kind.max()) + 1)
    if path.exists():
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.eval()
    copies = 20  # of the few digits, for balance
    images = to_float(torch.cat([digits[~digits_out].repeat(copies, 1, 1, 1), shapes[~shapes_out][:30_000]]))
    labels = torch.cat([digit[~digits_out].repeat(copies), kind[~shapes_out][:30_000] + n_digits])
    print("training the teacher", flush=True)
    teacher.net = train_judge(images, labels, 1000, seed=config.seed + 1)
    teacher.standardise(images[:: max(1, len(images) // 5000)])
    with atomic(path) as temporary:
        torch.save(teacher.state_dict(), temporary)
    return teacher.eval()


def load_judges(config: Config, data: dict[str, Data]) -> dict[str, Judge]:
    """Classifiers trained on the real training images of each data set; kept beside the checkpoint."""
    judges = {}
    for name, (images, labels, out) in data.items():
        path = config.out / f"judge_{name}.pt"
        if not path.exists():
            steps = 400 if name == "digits" else 1000
            judge = train_judge(to_float(images[~out][:40_000]), labels[~out][:40_000], steps)
            with atomic(path) as temporary:
                torch.save(judge.state_dict(), temporary)
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
                model.detokenize(chunk[:, :k].split(1), TinyCodec.timesteps, generator=rng)
                for chunk in tokens.split(256)
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
    torch.manual_seed(config.seed)  # initial weights
    model = TinyFlexTok()
    regression = Regression(model.config.tokens * len(model.config.levels))
    alignment = Alignment(model.config.width)
    data = load_images(config)
    teacher, judges = load_teacher(config, data), load_judges(config, data)
    digits, scenes = (images[~out] for images, _, out in data.values())
    batch = config.digits_per_step + config.scenes_per_step

    def draw(rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(digits), (config.digits_per_step,), generator=rng)
        others = torch.randint(len(scenes), (config.scenes_per_step,), generator=rng)
        return torch.cat([jitter(to_float(digits[rows]), rng), to_float(scenes[others])])

    def look(step: int, average: nn.ModuleList) -> None:
        if step % config.eval_every:
            return
        averaged = copy.copy(model)
        averaged._modules = model._modules | {"decoder": average[0]}
        for name, figures in evaluate(averaged, judges, data, 100).items():
            print(f"  {name}: " + "  ".join(f"{k} {v:.3g}" for k, v in figures.items()), flush=True)

    encoder_weights = {
        "pixels": config.pixel_weight,
        "features": config.feature_weight,
        "spread": config.spread_weight,
    }
    fit(
        Stage("encoder", config.encoder_steps, batch, config.seed, encoder_weights),
        nn.ModuleList([model.encoder, regression]),
        lambda rng: encoder_losses(model, regression, teacher, draw(rng), config.digits_per_step, rng),
        config.out,
    )
    decoder_weights = {"flow": 1.0, "alignment": config.alignment_weight}
    fit(
        Stage("decoder", config.decoder_steps, batch, config.seed + 1, decoder_weights),
        nn.ModuleList([model.decoder, alignment]),
        lambda rng: decoder_losses(model, alignment, teacher, draw(rng), config.drop_all, config.noise_shift, rng),
        config.out,
        look,
    )
    return model.eval()


def plot(config: Config, figures: dict[str, dict[str, float]], path: Path) -> None:
    """Losses against steps, relative accuracy against the number of tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (*lefts, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for stage, names, axes in (
        ("encoder", ("pixels", "features"), lefts[0]),
        ("decoder", ("flow", "alignment"), lefts[1]),
    ):
        rows = [json.loads(line) for line in (config.out / f"{stage}.jsonl").read_text().splitlines()]
        for name in names:
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
        axes.set(xlabel="step", ylabel="loss (running mean)", yscale="log", title=f"training of the {stage}")
        axes.locator_params(axis="x", nbins=5)
        axes.legend()
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
