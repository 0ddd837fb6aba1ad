"""What a context lets expect: a token's codes, by ridge regression on earlier digits and their products."""

import torch
from torch import Tensor, nn

PRINCIPAL = 48  # numbers of a context whose products count: above it the leading principal components
RIDGE = 20.0  # on a digit
RIDGE_OF_PRODUCTS = 30.0
RIDGE_OF_CONSTANT = 1e-3
IMAGES_AT_ONCE = 4096  # bounds the memory
MOST_LEVERAGE = 0.95


def principal_axes(numbers: Tensor, count: int) -> Tensor:
    """The `count` directions [C, count] in which centred `numbers` [M, C] vary most."""
    spread = numbers.T @ numbers
    try:
        return torch.linalg.eigh(spread)[1][:, -count:]
    except torch.linalg.LinAlgError:
        # Where images are few, or digits are always the same, most of the spectrum is rounding: the solver may fail.
        spread = spread.double() + torch.eye(len(spread), dtype=torch.float64, device=spread.device)
        return torch.linalg.eigh(spread)[1][:, -count:].float()


class Regression(nn.Module):
    """The regression of one row: for each digit, on the context and the digits of the token before it.

    Features are in such an order that those of a digit begin with those of the one before: a single
    Cholesky factor of all features has those of every digit as its leading blocks.
    """

    ridge_of_products = RIDGE_OF_PRODUCTS
    center: Tensor  # [C + D], the mean codes
    axes: Tensor  # [C, k], the principal components; 0 of them where all digits are multiplied
    weights: Tensor  # [D, P], 0 for the features that a digit does not see

    def __init__(self, row: int, levels: tuple[int, ...]):
        super().__init__()
        self.digits = len(levels)
        self.context = row * self.digits
        whole = self.context <= PRINCIPAL
        self.multiplied = self.context if whole else PRINCIPAL
        self.sizes = [1 + self.context + self.multiplied * (self.multiplied + 1) // 2]
        for digit in range(1, self.digits):
            self.sizes.append(self.sizes[-1] + 1 + self.multiplied + digit)
        self.register_buffer("center", torch.zeros(self.context + self.digits))
        self.register_buffer("axes", torch.zeros(self.context, 0 if whole else PRINCIPAL))
        self.register_buffer("weights", torch.zeros(self.digits, self.sizes[-1]))

    def features(self, codes: Tensor) -> Tensor:
        """Codes [n, C + D] -> [n, P]: a constant, the context, products of its numbers; then of each digit
        of the token but the last, itself and its products with all before it."""
        codes = codes - self.center
        context = codes[:, : self.context]
        numbers = context @ self.axes if self.axes.shape[1] else context
        first, second = torch.triu_indices(self.multiplied, self.multiplied, device=codes.device)
        parts = [torch.ones_like(codes[:, :1]), context, numbers[:, first] * numbers[:, second]]
        for digit in range(self.digits - 1):
            end = self.context + digit + 1
            own = codes[:, end - 1 : end]
            parts += [own, own * numbers, own * codes[:, self.context : end]]
        return torch.cat(parts, 1)

    def predict(self, codes: Tensor) -> Tensor:
        """Codes [n, C + D] -> the mean codes of the token's digits [n, D]; the last digit is not looked at."""
        parts = codes.split(IMAGES_AT_ONCE)
        means = torch.cat([self.features(part) @ self.weights.T for part in parts])
        return means + self.center[self.context :]

    @torch.no_grad()
    def fit(self, codes: Tensor) -> Tensor:
        """Fit to training images [M, C + D]: their leverage [M, D], the diagonal h of the hat matrix.

        Left out of the regression, an image's error r would be r / (1 - h).
        """
        self.center.copy_(codes.mean(0))
        if self.axes.shape[1]:
            self.axes.copy_(principal_axes((codes - self.center)[:, : self.context], PRINCIPAL))

        parts = codes.split(IMAGES_AT_ONCE)
        gram = torch.diag(self._ridge().double()).to(codes.device)
        for part in parts:
            features = self.features(part).double()
            gram += features.T @ features
        factor = torch.linalg.cholesky(gram)

        # In the orthogonal basis of the factor the prediction of a digit is a sum over its first features.
        targets = codes.double() - self.center
        moments = torch.zeros(self.sizes[-1], self.digits, dtype=torch.float64, device=codes.device)
        leverage = []
        for part, target in zip(parts, targets.split(IMAGES_AT_ONCE), strict=True):
            basis = torch.linalg.solve_triangular(factor, self.features(part).double().T, upper=False)
            moments += basis @ target[:, self.context :]
            leverage.append(torch.stack([basis[:size].square().sum(0) for size in self.sizes], 1))
        for digit, size in enumerate(self.sizes):
            solved = torch.linalg.solve_triangular(
                factor[:size, :size].T, moments[:size, digit : digit + 1], upper=True
            )
            self.weights[digit, :size] = solved[:, 0].float()
        return torch.cat(leverage).clamp(max=MOST_LEVERAGE).float()

    def _ridge(self) -> Tensor:
        """What the square of each weight costs: [P]."""
        pairs = self.multiplied * (self.multiplied + 1) // 2
        parts = [[RIDGE_OF_CONSTANT], [RIDGE] * self.context, [self.ridge_of_products] * pairs]
        parts += [
            [RIDGE] + [self.ridge_of_products] * (self.multiplied + digit + 1) for digit in range(self.digits - 1)
        ]
        return torch.tensor([weight for part in parts for weight in part])
