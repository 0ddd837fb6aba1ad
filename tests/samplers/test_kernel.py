"""The kernel n-gram is the formula of its docstring, draws what it says, and learns from the training images alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare

from imagegram.cli import UserError
from imagegram.codec.fsq import fsq_digits
from imagegram.index.folder import Index
from imagegram.samplers import Kernel
from imagegram.samplers.kernel import drawing
from imagegram.samplers.kernel import fit as module
from imagegram.samplers.kernel import votes as kernel_votes
from imagegram.samplers.kernel.fit import fit, fit_file, open_kernel
from imagegram.samplers.kernel.model import EPS, OWN_TOKENS, digits_of, earlier_places
from imagegram.samplers.kernel.model import Kernel as KernelModel
from imagegram.samplers.kernel.votes import Library
from tests.support.corpora import index_of

CPU = torch.device("cpu")
LEVELS = (8, 8, 8)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 12)


def related(n: int, length: int = 4, seed: int = 0) -> NDArray[np.int64]:
    """Images whose digits all lie near one digit of their own: a context tells a lot."""
    rng = np.random.default_rng(seed)
    digits = (rng.integers(1, 7, (n, 1, 1)) + rng.integers(-1, 2, (n, length, 3))).clip(0, 7)
    return digits @ np.array([1, 8, 64])


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return index_of(tmp_path, related(120))


def by_hand(model: KernelModel, training: NDArray[np.integer], image: NDArray[np.integer], step: float) -> list[float]:
    """The formula of the docstring in loops: the probability of every token of one sequence."""
    y = fsq_digits(training, LEVELS).reshape(len(training), -1)
    x = fsq_digits(image, LEVELS).ravel()
    codes, log_weights = model.codes.double().numpy(), model.log_weights.double().numpy()
    result = np.ones(len(image))
    shared = len(codes) - 3  # the first of the last three rows, which all later places share

    def row_of(place: int) -> int:
        return place if place < len(codes) else shared + place % 3

    for place in range(len(x)):
        row = row_of(place)
        distances = np.zeros(len(training))
        for weight, m in zip(np.exp(log_weights[row]), earlier_places(place, 3), strict=False):
            distances += weight * (codes[row_of(m), x[m]] - codes[row_of(m), y[:, m]]) ** 2
        votes = np.exp(-distances / (EPS + distances.min()) ** model.widening[row].item())
        votes /= votes.sum()
        a, b, c = np.exp(model.share_logits[row].double().numpy())
        a, b, c = np.array([a, b, c]) / (a + b + c)
        b, c = b * min(step, 1), c * min(step, 1)
        p = b * model.unigram[place, x[place]].item() + c / 8
        for j, vote in enumerate(votes):
            chances = np.exp(model.step_logits[row, y[j, place]].double().numpy() / step)
            p += (1 - b - c) * vote * chances[x[place]] / chances.sum()
        result[place // 3] *= p
    return result.tolist()


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_probabilities_are_the_formula(index: Index, step: float) -> None:
    model = open_kernel(index, CPU)
    rows = np.vstack([related(3, seed=1), index.tokens[:2]]).astype(np.uint16)
    expected = [by_hand(model, index.tokens, row, step) for row in rows]
    assert Kernel(step=step).probabilities(index, rows) == pytest.approx(np.array(expected), rel=2e-4)


def test_late_tokens_of_long_images_share_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_votes, "CACHE", 7)  # so that the votes of 24 images are counted in tiles
    monkeypatch.setattr(kernel_votes, "PART", 3)
    monkeypatch.setattr(kernel_votes, "ROWS", 1)
    index = index_of(tmp_path, related(24, OWN_TOKENS + 4))
    model = open_kernel(index, CPU)
    assert model.rows == (OWN_TOKENS + 1) * 3 < model.places
    rows = np.vstack([related(1, OWN_TOKENS + 4, seed=1), index.tokens[:1]]).astype(np.uint16)
    expected = [by_hand(model, index.tokens, row, 1) for row in rows]
    assert Kernel().probabilities(index, rows) == pytest.approx(np.array(expected), rel=1e-3)
    # Left out, an image is foretold by the others alone.
    others = [by_hand(model, np.delete(index.tokens, 20, axis=0), index.tokens[20], 1)]
    left_out = Kernel().probabilities(index, index.tokens[20:21], leave_out=np.array([20]))
    assert left_out == pytest.approx(np.array(others), rel=1e-3)


def test_the_distribution_of_every_token_sums_to_one(index: Index) -> None:
    rows = np.full((512, 2), index.tokens[0, 0], np.uint16)
    rows[:, 1] = np.arange(512)
    assert Kernel().probabilities(index, rows)[:, 1].sum() == pytest.approx(1, abs=1e-5)
    rows = np.arange(512, dtype=np.uint16)[:, None]
    assert Kernel().probabilities(index, rows).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("step", [1.0, 0.6, 0.0])
def test_the_sampler_draws_from_these_probabilities(index: Index, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_votes, "MAX_PAIRS", 1000 * index.num_images)  # so that 1,000 are drawn at a time
    n = 6000
    prefix = np.tile(index.tokens[7, :2], (n, 1))
    drawn = Kernel(step=step).sample(index, n, np.random.default_rng(3), length=3, prefix=prefix).tokens[:, 2]
    rows = np.concatenate([np.tile(prefix[0], (512, 1)), np.arange(512)[:, None]], 1).astype(np.uint16)
    expected = Kernel(step=step).probabilities(index, rows)[:, 2] * n
    counts = np.bincount(drawn, minlength=512)
    assert counts[expected < 1e-6].sum() == 0
    common = expected >= 5
    groups = [np.append(x[common], x[~common].sum()) for x in (counts, expected)]
    keep = groups[1] > 5
    assert chisquare(groups[0][keep], groups[1][keep] * groups[0][keep].sum() / groups[1][keep].sum()).pvalue > 1e-3


def test_sources_are_near_what_was_drawn(index: Index) -> None:
    samples = Kernel(step=0).sample(index, 200, np.random.default_rng(0))
    sources = index.tokens[samples.sources[..., 0], samples.sources[..., 1]]
    assert (samples.sources[..., 1] == np.arange(4)).all()
    # Without a step, the last digit of a token is that of its source.
    assert np.array_equal(fsq_digits(sources, LEVELS)[..., 2], fsq_digits(samples.tokens, LEVELS)[..., 2])
    assert (sources == samples.tokens).mean() > 0.2


@pytest.mark.parametrize("reachable", [True, False])
def test_a_source_is_drawn_by_its_vote_and_the_chance_of_its_step(reachable: bool) -> None:
    """Where no image's digit can become what was drawn (the floor drew it), by the votes alone."""
    rng = np.random.default_rng(0)
    images, n = 30, 20_000
    digits = rng.integers(0, 4, images)
    each = rng.random(images) ** 4
    steps = rng.random(4) * reachable
    sums = [np.bincount(digits[first : first + 7], each[first : first + 7], 4) for first in range(0, images, 7)]
    votes = kernel_votes.Votes(
        torch.from_numpy(each).float().expand(n, -1),
        torch.from_numpy(np.array(sums)).float()[:, None].expand(-1, n, -1),
        7,
    )
    drawn = drawing._draw_source(
        votes, torch.from_numpy(steps).float().expand(n, -1), torch.from_numpy(digits.astype(np.uint8)), rng
    )
    expected = each * steps[digits] if reachable else each
    expected *= n / expected.sum()
    common = expected > 5
    observed = np.bincount(drawn, minlength=images)
    assert observed[expected == 0].sum() == 0
    assert chisquare(observed[common], expected[common] * observed[common].sum() / expected[common].sum()).pvalue > 1e-3


def test_the_fit_learns_from_others_and_not_from_the_image_itself() -> None:
    """Left out, unrelated images are no better predicted than by chance; related ones are, held-out ones alike."""
    rng = np.random.default_rng(0)
    chance = fit(rng.integers(0, 512, (200, 4)).astype(np.uint16), LEVELS, CPU)
    assert left_out_bits(chance, rng.integers(0, 512, (200, 4))) > 8.8
    model = fit(related(200).astype(np.uint16), LEVELS, CPU)
    assert left_out_bits(model, related(200)) < 6.5
    # The same figure where every image predicts itself as well would be far lower.
    assert left_out_bits(model, related(200)) - left_out_bits(model, related(200), leave_out=False) > 1


def test_in_a_large_corpus_the_metric_is_as_narrow_as_predicts_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the bits of metrics a little wider and a little narrower, of all training images left out one by one."""
    monkeypatch.setattr(module, "LIBRARY", 64)
    rng = np.random.default_rng(0)
    paths = rng.uniform(0, 7, (3000, 1)) + rng.uniform(-2, 2, (3000, 1)) * np.arange(4)
    tokens = np.repeat(paths.clip(0, 7)[:, :, None], 3, 2).round().astype(np.int64) @ np.array([1, 8, 64])
    whole = fit(tokens.astype(np.uint16), LEVELS, CPU)
    monkeypatch.setattr(module, "_narrow", lambda *_: None)
    wide = fit(tokens.astype(np.uint16), LEVELS, CPU)

    factor = (whole.log_weights - wide.log_weights)[8, 0].exp().item()
    assert factor > module.NARROWER
    finite = torch.isfinite(wide.log_weights)
    assert torch.allclose(whole.log_weights[finite], wide.log_weights[finite] + np.log(factor), atol=1e-4)
    bits = {}
    for change in (1 / factor, 1 / 3, 1, 3):
        whole.log_weights.add_(np.log(change))
        bits[change] = left_out_bits(whole, tokens)
        whole.log_weights.sub_(np.log(change))
    assert bits[1] < bits[1 / factor]
    assert bits[1] < min(bits[1 / 3], bits[3]) + 1e-4  # rounded: beyond some width all images of the corpus are alike


def test_few_images_are_not_learned_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """They predict others better than uniform tokens (9 bits), and better than after the steps that many images get."""
    monkeypatch.setattr(module, "STEPS", 60)
    few = related(50)
    others = digits_of(related(300, seed=9).astype(np.uint16), LEVELS, CPU)
    library = digits_of(few.astype(np.uint16), LEVELS, CPU)
    bits = []
    for passes in (module.PASSES, 1000):
        monkeypatch.setattr(module, "PASSES", passes)
        model = fit(few.astype(np.uint16), LEVELS, CPU)
        bits.append(-model.log2_probabilities(others, library, range(12)).sum(1).mean().item() / 4)
    assert bits[0] < min(9, bits[1] - 0.1)


def left_out_bits(model: KernelModel, tokens: NDArray[np.integer], leave_out: bool = True) -> float:
    digits = torch.from_numpy(fsq_digits(tokens, LEVELS).reshape(len(tokens), -1).astype(np.uint8))
    own = torch.arange(len(tokens)) if leave_out else None
    logs = model.log2_probabilities(digits, digits, range(model.places), own)
    return float(-logs.sum(1).mean()) / tokens.shape[1]


def test_a_fit_is_kept_beside_its_index_and_made_anew_for_another(tmp_path: Path) -> None:
    index = index_of(tmp_path, related(60))
    open_kernel(index, CPU)
    before = fit_file(index).read_bytes()
    stamp = fit_file(index).stat().st_mtime_ns
    open_kernel(index, CPU)
    assert fit_file(index).stat().st_mtime_ns == stamp
    other = index_of(tmp_path / "other", related(60, seed=5))
    fit_file(other).write_bytes(before)
    open_kernel(other, CPU)
    assert fit_file(other).read_bytes() != before


def test_a_place_listens_to_the_first_and_the_latest_tokens() -> None:
    assert earlier_places(7, 3) == list(range(7))
    far = earlier_places(100 * 6, 6)
    assert {place // 6 for place in far} == {*range(8), *range(76, 100)}


def test_listening_is_the_share_of_the_mean_distance_between_images() -> None:
    """Against all pairs of images, whose digits at different places need not be independent."""
    tokens = related(40, length=3)
    model = KernelModel(LEVELS, 3)
    digits = fsq_digits(tokens, LEVELS).reshape(40, -1)
    with torch.no_grad():
        model.codes.add_(torch.randn(model.codes.shape, generator=torch.Generator().manual_seed(0)) / 3)
        model.log_weights.add_(torch.randn(model.log_weights.shape, generator=torch.Generator().manual_seed(1)))
        for place in range(9):
            counts = np.bincount(digits[:, place], minlength=8)
            model.unigram[place] = torch.from_numpy(counts / counts.sum())
        embedded = model.embed(torch.from_numpy(digits)).numpy().astype(np.float64)
        weights = model.log_weights.exp().numpy()
    heard = np.zeros((3, 3))
    for place in range(9):
        for number, other in enumerate(model.contexts[place]):
            squares = np.square(embedded[other][:, None] - embedded[other][None]).mean()
            heard[place // 3, other // 3] += weights[place, number] * squares
    with torch.no_grad():
        listening = model.listening().numpy()
    assert listening == pytest.approx(heard / heard.sum(1, keepdims=True), rel=1e-4)
    assert (listening[np.triu_indices(3, 1)] == 0).all()


def test_levels_of_different_sizes_never_give_a_digit_that_does_not_exist() -> None:
    levels = (8, 5, 3)
    rng = np.random.default_rng(0)
    model = fit(rng.integers(0, 120, (80, 3)).astype(np.uint16), levels, CPU)
    digits = torch.from_numpy(fsq_digits(rng.integers(0, 120, (80, 3)), levels).reshape(80, -1).astype(np.uint8))
    library = model.embed(digits)
    for place in range(9):
        p = model.probabilities(place, model.votes(place, library, library), digits[:, place])
        assert p.sum(1).numpy() == pytest.approx(1, abs=1e-5)
        assert (p[:, levels[place % 3] :] == 0).all()


def test_too_few_images_and_codecs_without_codes_are_refused(tmp_path: Path) -> None:
    few = index_of(tmp_path / "few", related(15))
    with pytest.raises(UserError, match="at least 20 indexed images, there are 15"):
        Kernel().sample(few, 5, np.random.default_rng(0))
    no_codes = index_of(tmp_path / "no_codes", np.arange(240).reshape(60, 4), vocab_size=1000)
    with pytest.raises(UserError, match="no FSQ levels"):
        Kernel().sample(no_codes, 5, np.random.default_rng(0))


@pytest.mark.parametrize(("images", "size"), [(203, 20), (7, 1), (7, 7)])
def test_products_of_parts_sum_to_the_product(images: int, size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(5, images, generator=rng)
    b = torch.rand(3, images, generator=rng).T
    found = kernel_votes.products_of_parts(a, b, size)
    assert torch.allclose(found.sum(0), a @ b)
    for part, product in enumerate(found):
        columns = slice(part * size, (part + 1) * size)
        assert torch.allclose(product, a[:, columns] @ b[columns])


@pytest.mark.parametrize("own", [None, 3])
def test_a_gpu_sums_the_votes_of_a_cpu(index: Index, own: int | None) -> None:
    """What a library does on a GPU, done on the CPU: all images at once, summed by tiles of them."""
    model = open_kernel(index, CPU)
    queries = model.embed(digits_of(index.tokens[:5], LEVELS, CPU))
    left_out = None if own is None else torch.full((5,), own)
    for place in (0, 4, 11):
        found = []
        for gpu in (False, True):
            library = Library(index.tokens, model)
            library.gpu = gpu
            found.append((*library.probabilities(place, queries, 1.0, left_out), library))
        (votes, p, _), (other, q, library) = found
        assert torch.allclose(p, q, atol=1e-6)
        assert torch.allclose(other.each, votes.each, rtol=1e-4, atol=1e-9)
        for number, sums in enumerate(other.sums):
            tile = slice(number * other.part, (number + 1) * other.part)
            held = torch.nn.functional.one_hot(library.digits[place, tile].long(), sums.shape[1]).float()
            assert torch.allclose(sums, other.each[:, tile] @ held, atol=1e-6)
