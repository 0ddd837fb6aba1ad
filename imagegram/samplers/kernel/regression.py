"""What a context lets expect: a token's codes, by kernel ridge regression on the digits before it.

The kernel is Gaussian, and its features are the nearness to some training images, the landmarks
(the Nystrom method: Williams & Seeger 2001, "Using the Nystrom method to speed up kernel
machines").
"""

import contextlib

import torch
from torch import Tensor, nn

LANDMARKS = 1500  # training images whose nearness is a feature: half of them, at most this many
IMAGES_A_LANDMARK = 18  # where images are more than 27,000, there are more
LANDMARKS_OF_ALL_ROWS = 48_000  # but not more than this: they are solved for in minutes
RIDGE_OF_NEARNESS = 0.1
LEAST_SPREAD = 0.01  # of contexts, where digits hardly change
JITTER = 0.01  # of the kernel between landmarks, whose least eigenvalues are rounding
PRINCIPAL = 48  # numbers of a context that digits are multiplied with; of more, as many components
RIDGE = 20.0  # on a digit, and on a product of two
RIDGE_OF_CONSTANT = 1e-3
IMAGES_AT_ONCE = 4096  # bounds the memory
MOST_LEVERAGE = 0.95
BLOCK = 256  # columns of a triangular matrix whose zeros are not multiplied


def landmarks_of(images: int, rows: int) -> int:
    """How many landmarks each regression has, of so many rows, on so many images.

    >>> [landmarks_of(images, rows=16) for images in (1_608, 18_000, 53_929)]
    [804, 1500, 2996]
    >>> landmarks_of(65_536, rows=33)
    1500
    """
    most = max(LANDMARKS, min(images // IMAGES_A_LANDMARK, LANDMARKS_OF_ALL_ROWS // rows))
    return min(images // 2, most)


def principal_axes(numbers: Tensor, count: int) -> Tensor:
    """The `count` directions [C, count] in which centred `numbers` [M, C] vary most."""
    spread = numbers.T @ numbers
    # Where images are few or digits never change, the spectrum is rounding: the solver may fail.
    with contextlib.suppress(torch.linalg.LinAlgError):
        axes = torch.linalg.eigh(spread)[1][:, -count:]
        if axes.isfinite().all():
            return axes
    spread = spread.double() + torch.eye(len(spread), dtype=torch.float64, device=spread.device)
    return torch.linalg.eigh(spread)[1][:, -count:].float()


def _inverse_root(matrix: Tensor) -> Tensor:
    """Upper triangular R with R R^T = `matrix`^-1, of a positive definite one's lower triangle [n,
    n], float64."""
    one = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), one, upper=False).T


def _times_upper(rows: Tensor, upper: Tensor) -> Tensor:
    """`rows` [n, P] times an upper triangular matrix [P, P], mostly without its zeros."""
    firsts = range(0, len(upper), BLOCK) or [0]
    return torch.cat([rows[:, : i + BLOCK] @ upper[: i + BLOCK, i : i + BLOCK] for i in firsts], 1)


def _add_square(gram: Tensor, rows: Tensor) -> None:
    """Add `rows`^T `rows` to the lower triangle of `gram` [P, P], float64; above it is anything."""
    for i in range(0, len(gram), BLOCK):
        gram[i : i + BLOCK, : i + BLOCK] += rows[:, i : i + BLOCK].T @ rows[:, : i + BLOCK]


class Regression(nn.Module):
    """The regression of one row: of each digit on the context and on the token's digits before it.

    Features are in such an order that those of a digit begin with those of the one before: a single
    Cholesky factor of all features has those of every digit as its leading blocks.
    """

    ridge_of_nearness = RIDGE_OF_NEARNESS
    ridge_of_products = RIDGE
    center: Tensor  # [C + D], the mean codes
    landmarks: Tensor  # [K, C], centred contexts
    spread: Tensor  # [], the squared distance at which nearness is 1 / e: the variance of contexts
    axes: Tensor  # [C, k], the principal components; 0 of them where all digits are multiplied
    weights: Tensor  # [D, P], 0 for the features that a digit does not see

    def __init__(self, row: int, levels: tuple[int, ...], landmarks: int):
        """landmarks: K, of rows with a context."""
        super().__init__()
        self.digits = len(levels)
        self.context = row * self.digits
        components = PRINCIPAL if self.context > PRINCIPAL else 0
        landmarks = landmarks if row else 0
        self.near = slice(1 + self.context, 1 + self.context + landmarks)  # of the features
        self.sizes = [self.near.stop]
        for digit in range(1, self.digits):
            self.sizes.append(self.sizes[-1] + 1 + (components or self.context) + digit)
        self.register_buffer("center", torch.zeros(self.context + self.digits))
        self.register_buffer("landmarks", torch.zeros(landmarks, self.context))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("axes", torch.zeros(self.context, components))
        self.register_buffer("weights", torch.zeros(self.digits, self.sizes[-1]))

    def nearness(self, context: Tensor) -> Tensor:
        """Of centred contexts [n, C] to the landmarks: [n, K], 1 where they are equal."""
        squares = context.square().sum(1)[:, None] + self.landmarks.square().sum(1)
        return ((squares - 2 * context @ self.landmarks.T) / -self.spread).exp()

    def features(self, codes: Tensor) -> Tensor:
        """Codes [n, C + D] -> [n, P]: those of the context, then those of the token's digits."""
        return torch.cat([self.of_context(codes), self.of_token(codes)], 1)

    def of_context(self, codes: Tensor) -> Tensor:
        """A constant, the context, its nearness to the landmarks: [n, near.stop]."""
        context = (codes - self.center)[:, : self.context]
        return torch.cat([torch.ones_like(codes[:, :1]), context, self.nearness(context)], 1)

    def of_token(self, codes: Tensor) -> Tensor:
        """Of each digit of the token but the last, itself and its products with all before it."""
        codes = codes - self.center
        context = codes[:, : self.context]
        numbers = context @ self.axes if self.axes.shape[1] else context
        parts = [codes[:, :0]]
        for digit in range(self.digits - 1):
            end = self.context + digit + 1
            own = codes[:, end - 1 : end]
            parts += [own, own * numbers, own * codes[:, self.context : end]]
        return torch.cat(parts, 1)

    def predict(self, codes: Tensor, expected: Tensor | None = None) -> Tensor:
        """Codes [n, C + D] -> the mean codes of the token's digits [n, D], whose last is not seen.

        expected: what `expect` makes of the context, where that is known already.
        """
        expected = self.expect(codes) if expected is None else expected
        return expected + self.of_token(codes) @ self.weights[:, self.near.stop :].T

    def expect(self, codes: Tensor) -> Tensor:
        """The part of it that the context alone tells: [n, D]."""
        weights = self.weights[:, : self.near.stop].T
        means = torch.cat([self.of_context(part) @ weights for part in codes.split(IMAGES_AT_ONCE)])
        return means + self.center[self.context :]

    @torch.no_grad()
    def fit(self, codes: Tensor, landmarks: Tensor) -> Tensor:
        """Fit to training images [M, C + D]: their leverage [M, D], the diagonal h of the hat
        matrix. Left out of the regression, an image's error r would be r / (1 - h).

        landmarks: int64 [>= K], of the images.
        """
        self.center.copy_(codes.mean(0))
        context = (codes - self.center)[:, : self.context]
        if self.axes.shape[1]:
            self.axes.copy_(principal_axes(context, PRINCIPAL))
        self.landmarks.copy_(context[landmarks[: len(self.landmarks)]])
        self.spread.copy_(context.square().mean(0).sum().clamp(min=LEAST_SPREAD))

        # Nearness in an orthogonal basis of the landmarks' own: its ridge is that of the kernel.
        one = torch.eye(len(self.landmarks), dtype=torch.float64, device=codes.device)
        white = _inverse_root(self.nearness(self.landmarks).double() + JITTER * one).float()
        parts = [self.features(part) for part in codes.split(IMAGES_AT_ONCE)]
        gram = torch.diag(self._ridge().double()).to(codes.device)
        for features in parts:
            features[:, self.near] = _times_upper(features[:, self.near], white)
            _add_square(gram, features)

        # In an orthogonal basis of all features a digit's prediction is a sum over its first ones.
        root = _inverse_root(gram)
        root32 = root.float()
        targets = (codes - self.center)[:, self.context :].split(IMAGES_AT_ONCE)
        moments = torch.zeros(self.sizes[-1], self.digits, dtype=torch.float64, device=codes.device)
        leverage = []
        for features, target in zip(parts, targets, strict=True):
            basis = _times_upper(features, root32)
            moments += (basis.T @ target).double()
            basis.square_()
            leverage.append(torch.stack([basis[:, :size].sum(1) for size in self.sizes], 1))
        for digit, size in enumerate(self.sizes):
            self.weights[digit, :size] = (root[:size, :size] @ moments[:size, digit]).float()
        self.weights[:, self.near] = self.weights[:, self.near] @ white.T
        return torch.cat(leverage).clamp(max=MOST_LEVERAGE)

    def _ridge(self) -> Tensor:
        """What the square of each weight costs: [P]."""
        ridge = torch.full((self.sizes[-1],), self.ridge_of_products)
        ridge[: self.near.start] = RIDGE
        ridge[0] = RIDGE_OF_CONSTANT
        ridge[self.near] = self.ridge_of_nearness
        return ridge
