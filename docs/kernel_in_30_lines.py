"""The kernel sampler in thirty lines of NumPy: p(token t of an image | the tokens before it), of a
kept fit.

    fit = safetensors.numpy.load_file("data/index-kernel.safetensors")
    training, image: the digits of tokens, [N, F] and [F], of levels 8; D digits a token
    p = token_probability(fit, training, image, t, D)

For images of at most 16 tokens of three digits; imagegram/samplers/kernel has the fast one, for
all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]


def features(
    x: Numbers, c: int, d: int, landmarks: Numbers, spread: Numbers
) -> tuple[Numbers, Numbers]:
    # Of centred codes [n, c + d]: the context, its nearness to landmarks; each digit of the token,
    # its products
    near, among = (
        np.exp(-np.square(y[:, None, :c] - landmarks).sum(2) / spread) for y in (x, landmarks)
    )
    own = [
        x[:, k : k + 1] * np.hstack([np.ones((len(x), 1)), x[:, : k + 1]]) for k in range(c, c + d)
    ]
    F = np.hstack([np.ones((len(x), 1)), x[:, :c], near, *own])
    price = np.diag([1e-3] + [20.0] * (F.shape[1] - 1))
    price[1 + c : 1 + c + len(among), 1 + c : 1 + c + len(among)] = 0.1 * (
        among + 0.01 * np.eye(len(among))
    )
    return F, price


def token_probability(
    fit: dict[str, Numbers], training: Numbers, image: Numbers, t: int, D: int
) -> float:
    c, values = t * D, fit["codes"].shape[1]
    # where the quantizer has the digits
    y, x = training[:, : c + D] / 4 - 1, image[None, : c + D] / 4 - 1

    # Who votes: images whose earlier tokens are near, after the learned places of digits and a
    # projection.
    A = fit[f"projections.{t}"] * np.exp(fit["sharpness"][t] / 2)
    them, us = (
        fit["codes"][np.arange(c), digits[:, :c]] @ A.T for digits in (training, image[None])
    )
    step = np.abs(them).max(initial=1e-9) / 127  # distances are counted in whole numbers
    distance = np.square(step * (np.round(them / step) - np.round(us / step).clip(-127, 127))).sum(
        1
    )
    # no image is heard louder than the fourth nearest
    distance = np.maximum(distance, np.sort(distance)[3])
    chance = np.exp(distance.min() - distance) / np.exp(distance.min() - distance).sum()
    equal = chance @ (training[:, c : c + D] == image[c : c + D]).all(1)

    # What they offer: their own digit, moved by what the difference of the contexts makes.
    for d in range(D):
        target = y[:, c + d] - y[:, c + d].mean()
        near = fit[f"regressions.{t}.landmarks"], fit[f"regressions.{t}.spread"]
        F, price = features(y - y.mean(0), c, d, *near)
        inverse = np.linalg.inv(F.T @ F + price)
        w = inverse @ F.T @ target
        left_out = (target - F @ w) / (1 - np.einsum("np,pq,nq->n", F, inverse, F))
        offer = features(x - y.mean(0), c, d, *near)[0] @ w + y[:, c + d].mean() + left_out
        edges = np.hstack([-1e4, fit["edges"][t, d], 1e4])[image[c + d] + np.arange(2)]
        low, high = 1 / (
            1
            + np.exp(np.clip((offer - edges[:, None]) / np.exp(fit["log_width"][t, d]), -500, 500))
        )
        chance = chance * (high - low)
    a, b, uniform = np.exp(fit["share_logits"][t]) * ([1, 1, 1] if t == 0 else [1, 0, 1])
    return (a * chance.sum() + b * equal + uniform / values**D) / (a + b + uniform)
