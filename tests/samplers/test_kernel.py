"""The kernel n-gram is its formula, draws what it says, and learns from training images alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare

from docs.kernel_in_30_lines import token_probability
from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers import Kernel
from imagegram.samplers.kernel import fit as module
from imagegram.samplers.kernel import votes as kernel_votes
from imagegram.samplers.kernel.fit import fit, open_kernel
from imagegram.samplers.kernel.model import OWN_TOKENS, MovedVotes, context_places, digits_of
from imagegram.samplers.kernel.regression import JITTER, Regression
from tests.support.corpora import assert_same, index_of, related

LEVELS = (8, 8, 8)
FITTED = Kernel(temperature=1.0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 12)


def digits_in(tokens: NDArray[np.integer]) -> torch.Tensor:
    """[n, L] -> uint8 [n, F]."""
    return digits_of(tokens.astype(np.uint16), LEVELS, torch.device("cpu"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return index_of(tmp_path, related(60))


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that votes are counted in several blocks and tiles, the last of which is not full."""
    monkeypatch.setattr(kernel_votes, "GROUP", 7)
    monkeypatch.setattr(kernel_votes, "TILE", 28)
    monkeypatch.setattr(kernel_votes, "ROWS", 3)


def whole(y: torch.Tensor) -> torch.Tensor:
    """The projected numbers of images [N, r], rounded as the votes see them: to 127 steps of the
    largest."""
    step = y.abs().max() / 127
    return step * (y / step).round()


def heard(distances: torch.Tensor) -> torch.Tensor:
    """Squared distances as the votes take them: none is nearer than the fourth nearest."""
    return distances.maximum(distances.sort()[0][3])


def chance(
    model: MovedVotes,
    position: int,
    wanted: torch.Tensor,
    distances: torch.Tensor,
    near: torch.Tensor,
) -> float:
    """p of a token [3] by images at squared distances [N] that offer `near` [N, 3]."""
    votes = torch.softmax(-heard(distances), 0)
    for digit in range(3):
        offers = near[None, :, digit]
        votes = votes * model.chances(position, digit, wanted[None, digit, None], offers)[0]
    shares = model.shares(position)
    return (shares[0] * votes.sum() + shares[2] / 512).item()


def assert_drawn_from(expected: NDArray[np.float64], observed: NDArray[np.integer]) -> None:
    """Counts of what is common follow the expected ones, by a chi-square test."""
    common = expected > 5
    expected, observed = expected[common], observed[common]
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_probabilities_are_the_thirty_lines(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    monkeypatch.setattr(kernel_votes, "TILE", 7)  # two of groups as well
    fitted = {
        name: value.double().numpy() for name, value in open_kernel(index).state_dict().items()
    }
    rows = np.vstack([related(3, seed=1), index.tokens[:2]]).astype(np.uint16)
    training, asked = digits_in(index.tokens).numpy(), digits_in(rows).numpy()
    expected = [
        [token_probability(fitted, training, image, t, 3) for t in range(4)] for image in asked
    ]
    assert FITTED.probabilities(index, rows) == pytest.approx(np.array(expected), rel=1e-3)


def test_an_image_left_out_neither_votes_nor_shapes_its_own_mean(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mean is that of a regression fitted without it; of the votes, its own is taken away."""
    small_tiles(monkeypatch)
    model = open_kernel(index)
    image, position = 50, 2
    digits = digits_in(index.tokens)
    codes = model.training_codes(digits, position)
    others = torch.arange(60) != image
    refitted = refit(model.regression_at(position), codes, others)
    residuals = model.residuals(digits, position, torch.arange(60))[others]
    near = refitted.predict(codes[image : image + 1]) + residuals
    y = whole(model.project(digits, position))
    distances = (y[others] - y[image]).square().sum(1)
    expected = chance(model, position, digits[image, 6:9].long(), distances, near)
    asked = index.tokens[image : image + 1]
    found = FITTED.probabilities(index, asked, leave_out=np.array([image]))
    assert found[0, position] == pytest.approx(expected, rel=1e-3)


def refit(regression: Regression, codes: torch.Tensor, rows: torch.Tensor) -> Regression:
    """The same of some rows, by the normal equations, with the same center and axes."""
    features = regression.features(codes)[rows].double()
    other = Regression(regression.context // 3, LEVELS, len(regression.landmarks))
    other.load_state_dict(regression.state_dict())
    targets = (codes - regression.center)[rows, regression.context :].double()
    price = torch.diag(regression._ridge().double())
    near = regression.near
    among = regression.nearness(regression.landmarks).double()
    price[near, near] = regression.ridge_of_nearness * (among + JITTER * torch.eye(len(among)))
    for digit, size in enumerate(regression.sizes):
        some = features[:, :size]
        solved = torch.linalg.solve(some.T @ some + price[:size, :size], some.T @ targets[:, digit])
        other.weights[digit, :size] = solved.float()
    return other


@pytest.mark.parametrize("position", [0, 3, OWN_TOKENS + 2])
def test_left_out_residuals_are_those_of_refits_without_the_image(
    position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own position, where many share a row. Contexts are long there: principal
    components."""
    monkeypatch.setattr("imagegram.samplers.kernel.regression.BLOCK", 7)
    tokens = related(40, max(4, position + 2))
    model = fit(tokens, LEVELS)
    digits = digits_in(tokens)
    row = model.row(position)
    codes = model.training_codes(digits, row)
    for image in (7, 30):
        where = int(model.positions[image]) if row == OWN_TOKENS else position
        refitted = refit(model.regression_at(row), codes, torch.arange(40) != image)
        expected = codes[image, -3:] - refitted.predict(codes[image : image + 1])[0]
        found = model.residuals(digits[image : image + 1], where, torch.tensor([image]))[0]
        assert torch.allclose(found, expected, atol=2e-4)
        # With the image, they are smaller.
        seen = codes[image, -3:] - model.regression_at(row).predict(codes[image : image + 1])[0]
        assert seen.abs().sum() < 0.99 * found.abs().sum()


def test_late_tokens_of_long_images_share_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch)
    length = OWN_TOKENS + 40  # so that the rows of the library's context take turns
    index = index_of(tmp_path, related(24, length))
    model = open_kernel(index)
    assert model.rows == OWN_TOKENS + 1
    position = length - 1
    digits = digits_in(index.tokens)
    context = context_places(position, 3)
    places = [min(place, OWN_TOKENS * 3 + place % 3) for place in context]
    embedded = model.codes[places].gather(1, digits[:, context].T.long()).T
    y = whole(embedded @ model.projections[-1].T * (model.sharpness[-1] / 2).exp())
    distances = (y[0] - y).square().sum(1)
    near = model.means(digits[:1], position) + model.residuals(digits, position, torch.arange(24))
    expected = chance(model, position, digits[0, position * 3 :].long(), distances, near)
    found = FITTED.probabilities(index, index.tokens[:1])[0, position]
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "sampler", [FITTED, Kernel(step=0.6, temperature=0.7), Kernel(step=0.0), Kernel(top_k=3)]
)
@pytest.mark.parametrize("position", [0, 2])
def test_the_sampler_draws_from_these_probabilities(
    index: Index, sampler: Kernel, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch)
    n = 6000
    prefix = np.tile(index.tokens[7, :position], (n, 1))
    samples = sampler.sample(index, n, np.random.default_rng(3), length=position + 1, prefix=prefix)
    tokens, counts = np.unique(samples.tokens[:, position], return_counts=True)
    rows = np.concatenate([prefix[: len(tokens)], tokens[:, None]], 1)
    expected = sampler.probabilities(index, rows)[:, position] * n
    assert expected.min() >= 1e-6
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], n - expected[common].sum())  # of all others together
    assert_drawn_from(expected, observed)


@pytest.mark.parametrize("rounds", [[slice(0, 1)], [slice(0, 1), slice(1, 64)]])
def test_sources_are_drawn_by_their_votes(
    index: Index, rounds: list[slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a proposal is accepted, or all votes are made after all."""
    small_tiles(monkeypatch)
    monkeypatch.setattr(kernel_votes, "ROUNDS", rounds)
    monkeypatch.setattr(kernel_votes, "NEAREST", 1)
    n = 20_000
    prefix = np.tile(index.tokens[7, :2], (n, 1))
    rng = np.random.default_rng(0)
    samples = Kernel(temperature=0.8).sample(index, n, rng, length=3, prefix=prefix)
    assert (samples.sources[:, 2, 1] == 2).all()
    model = open_kernel(index)
    y = whole(model.project(digits_in(index.tokens), 2))
    expected = n * torch.softmax(-heard((y - y[7]).square().sum(1)).double() / 0.8, 0).numpy()
    observed = np.bincount(samples.sources[:, 2, 0], minlength=60)
    assert_drawn_from(expected, observed)
    rare = expected <= 5
    assert observed[rare].sum() == pytest.approx(expected[rare].sum(), abs=4 * np.sqrt(n / 10))


def test_a_token_was_moved_by_the_earlier_ones_that_differ_from_its_source(index: Index) -> None:
    """Images that are their source in all but some earlier tokens: only these change anything."""
    sources = np.tile(np.arange(20)[:, None], (1, 4))
    tokens = np.array(index.tokens[:20])
    tokens[:10, 1] ^= 4  # the highest bit of a digit
    tokens[10:, [0, 2]] ^= 4
    relevance = Kernel().relevance(index)
    assert np.array_equal(relevance, open_kernel(index).listening().numpy())
    reasons = Kernel().reasons(index, tokens, sources)
    assert (reasons[:, 0] == -1).all()
    assert (reasons[:10, 1] == -1).all()
    assert (reasons[:10, 2:] == (1, -1)).all()
    assert (reasons[10:, 1:3] == (0, -1)).all()
    assert (np.sort(reasons[10:, 3]) == (0, 2)).all()
    assert (Kernel().reasons(index, tokens, np.full((20, 4), -1)) == -1).all()  # given tokens


def test_without_a_step_every_token_is_that_of_its_source(index: Index) -> None:
    samples = Kernel(step=0).sample(index, 200, np.random.default_rng(0))
    rows, positions = np.moveaxis(samples.sources, -1, 0)
    assert np.array_equal(index.tokens[rows, positions], samples.tokens)
    assert (positions == np.arange(4)).all()


def test_the_same_tokens_in_blocks_of_any_size_on_any_number_of_threads(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Kernel().sample(index, 300, np.random.default_rng(1))
    threads = torch.get_num_threads()
    for rows, tile in ((7, 512), (300, 1024)):
        monkeypatch.setattr(kernel_votes, "ROWS", rows)
        monkeypatch.setattr(kernel_votes, "TILE", tile)
        torch.set_num_threads(1 if rows == 7 else 4)
        assert_same(Kernel().sample(index, 300, np.random.default_rng(1)), expected)
    torch.set_num_threads(threads)


def test_the_fit_learns_from_others_and_not_from_the_image_itself() -> None:
    """Left out, unrelated images are no better predicted than by chance; related ones are."""
    unrelated = np.random.default_rng(0).integers(0, 512, (200, 4)).astype(np.uint16)
    assert mean_bits(fit(unrelated, LEVELS), unrelated) > 8.8
    assert mean_bits(fit(related(200), LEVELS), related(200)) < 6.5


def mean_bits(model: MovedVotes, tokens: NDArray[np.integer]) -> float:
    """Leave-one-out bits a token of all training images."""
    digits = digits_in(tokens)
    bits = []
    for position in range(tokens.shape[1]):
        residuals = model.residuals(digits, position, torch.arange(len(tokens)))
        bits.append(module.left_out_bits(model, digits, residuals, position, len(tokens)).item())
    return float(np.mean(bits))


def test_what_is_fitted_is_the_leave_one_out_likelihood(index: Index) -> None:
    rows = np.arange(index.num_images)
    p = FITTED.probabilities(index, np.array(index.tokens), leave_out=rows)
    expected = mean_bits(open_kernel(index), index.tokens)
    assert -np.log2(p).mean() == pytest.approx(expected, rel=1e-3)  # votes are rounded


def test_a_token_listens_to_the_first_and_the_latest_tokens() -> None:
    assert context_places(7, 3) == list(range(21))
    assert {place // 6 for place in context_places(100, 6)} == {*range(8), *range(76, 100)}


def noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def test_listening_is_the_share_of_the_mean_distance_between_images() -> None:
    """Against all pairs of images, where every digit is as frequent as any other and alone."""
    model = MovedVotes(LEVELS, 3, 4)
    with torch.no_grad():
        for parameter in (model.codes, *model.projections):
            parameter.add_(noise(parameter) / 3)
        pairs = torch.cartesian_prod(torch.arange(8), torch.arange(8))
        heard = np.zeros(2)
        for place in range(6):
            first, second = model.codes[place][pairs].T
            weight = model.projections[2][:, place].square().sum()
            heard[place // 3] += ((first - second).square().mean() * weight).item()
    listening = model.listening().numpy()
    assert listening[2, :2] == pytest.approx(heard / heard.sum(), rel=1e-4)
    assert listening.sum(1) == pytest.approx(1)
    assert (listening[np.triu_indices(3, 1)] == 0).all()


def test_beyond_the_fit_steps_move_and_widen_alone() -> None:
    """At half the temperature twice the step is as wide; the edges and the shares stay those of the
    fit."""
    model = MovedVotes(LEVELS, 3, 4)
    with torch.no_grad():
        model.edges.add_(noise(model.edges) / 9)
    offers, wanted = torch.linspace(-2, 2, 50)[None], torch.tensor([[3]])
    beyond = model.chances(1, 0, wanted, offers, step=2.0, temperature=0.5)
    assert torch.allclose(beyond, model.chances(1, 0, wanted, offers))
    for position in (0, 2):
        fitted, beyond, half = (model.shares(position, step).detach() for step in (1.0, 3.0, 0.5))
        assert torch.allclose(beyond, fitted)
        assert half[2].item() == pytest.approx(fitted[2].item() / 2)
        assert half.sum().item() == pytest.approx(1)
        assert (half[0] * fitted[1]).item() == pytest.approx((half[1] * fitted[0]).item())


def test_levels_of_different_sizes_never_give_a_digit_that_does_not_exist() -> None:
    levels = (8, 5, 3)
    model = MovedVotes(levels, 3)
    offers = torch.linspace(-3, 3, 50)[None]
    for digit, level in enumerate(levels):
        p = model.chances(1, digit, torch.arange(level)[:, None], offers)
        assert p.sum(0).numpy(force=True) == pytest.approx(1, abs=1e-5)
    tokens = np.random.default_rng(0).integers(0, 120, (80, 3)).astype(np.uint16)
    assert fit(tokens, levels).log_width.isfinite().all()


def test_too_few_images_and_codecs_without_codes_are_refused(tmp_path: Path) -> None:
    few = index_of(tmp_path / "few", related(15))
    with pytest.raises(UserError, match="at least 20 indexed images, there are 15"):
        Kernel().sample(few, 5, np.random.default_rng(0))
    no_codes = index_of(tmp_path / "no_codes", np.arange(240).reshape(60, 4), vocab_size=1000)
    with pytest.raises(UserError, match="no FSQ levels"):
        Kernel().sample(no_codes, 5, np.random.default_rng(0))
