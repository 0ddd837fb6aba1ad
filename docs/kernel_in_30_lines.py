"""The kernel sampler in thirty lines of NumPy: p(token t of an image | the tokens before it).

    fit = safetensors.numpy.load_file("data/index-kernel.safetensors")
    training, image: the digits of tokens, [N, F] and [F], of levels 8; D digits a token
    p = token_probability(fit, training, image, t, D)

For images of at most 16 tokens of three digits; imagegram/samplers/kernel has the fast one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]


def features(x: Numbers, c: int, d: int, marks: Numbers, spread: float) -> tuple[Numbers, Numbers]:
    # Of centred codes [n, c + d]: the context, its nearness to landmarks; then each digit of the
    # token, and its products with all before it. And what the square of each weight costs.
    near, among = (np.exp(-np.square(y[:, None, :c] - marks).sum(2) / spread) for y in (x, marks))
    ones = np.ones((len(x), 1))
    own = [x[:, [k]] * np.hstack([ones, x[:, : k + 1]]) for k in range(c, c + d)]
    F = np.hstack([ones, x[:, :c], near, *own])
    price, mine = np.diag([1e-3] + [20.0] * (F.shape[1] - 1)), slice(1 + c, 1 + c + len(marks))
    price[mine, mine] = 0.1 * (among + 0.01 * np.eye(len(marks)))
    return F, price


def token_probability(fit: Any, training: Numbers, image: Numbers, t: int, D: int) -> float:
    c, token = t * D, slice(t * D, t * D + D)
    y, x = training[:, : c + D] / 4 - 1, image[None, : c + D] / 4 - 1  # as the quantizer has them

    # Who votes: images whose earlier tokens are near, in learned places of digits, projected; the
    # numbers are counted in 127 steps, and no image is heard louder than the fourth nearest.
    A = fit[f"projections.{t}"] * np.exp(fit["sharpness"][t] / 2)
    them, us = (fit["codes"][np.arange(c), z[:, :c]] @ A.T for z in (training, image[None]))
    step = np.abs(them).max(initial=1e-9) / 127
    apart = np.round(them / step) - np.round(us / step).clip(-127, 127)
    distance = np.square(step * apart).sum(1)
    vote = np.exp(-np.maximum(distance, np.sort(distance)[3]) + np.sort(distance)[3])
    chance = vote / vote.sum()
    equal = chance @ (training[:, token] == image[token]).all(1)

    # What they offer: their own digit, moved by what the difference of the contexts makes.
    marks, spread = fit[f"regressions.{t}.landmarks"], fit[f"regressions.{t}.spread"]
    for d in range(D):
        target = y[:, c + d] - y[:, c + d].mean()
        F, price = features(y - y.mean(0), c, d, marks, spread)
        inverse = np.linalg.inv(F.T @ F + price)
        w = inverse @ F.T @ target
        left_out = (target - F @ w) / (1 - np.einsum("np,pq,nq->n", F, inverse, F))
        mean = features(x - y.mean(0), c, d, marks, spread)[0] @ w + y[:, c + d].mean()
        edges = np.hstack([-1e4, fit["edges"][t, d], 1e4])[image[c + d] + np.arange(2)]
        far = (mean + left_out - edges[:, None]) / np.exp(fit["log_width"][t, d])
        low, high = 1 / (1 + np.exp(np.clip(far, -500, 500)))
        chance = chance * (high - low)
    a, b, uniform = np.exp(fit["share_logits"][t]) * ([1, 1, 1] if t == 0 else [1, 0, 1])
    uniform_chance = uniform / fit["codes"].shape[1] ** D
    return (a * chance.sum() + b * equal + uniform_chance) / (a + b + uniform)
