"""The rule that says which sampler is most like real images: neither a copier nor incoherent."""

from collections.abc import Mapping

from imagegram.metrics.registry import (
    CLOSER,
    COHERENCE,
    EXACT_COPIES,
    EXACT_COPY_PROBABILITY,
    Figures,
)

MOST_COPIES = 0.01  # share of exact copies, the upper end of its interval
MOST_CLOSER = 0.65  # P(closer): above, images lie nearer to the training set than real ones do
LEAST_CLOSER = 0.3  # below, they lie much further away: incoherent
LEAST_COHERENCE = 0.5  # halfway from independent tokens to real images


def copies(figures: Figures) -> bool:
    """Whether a sampler may copy more than real images do: by the probability where it is known."""
    figure = EXACT_COPY_PROBABILITY.of(figures) or EXACT_COPIES.of(figures)
    return figure is None or figure.high > MOST_COPIES


def is_coherent(figures: Figures) -> bool:
    """Whether images are nearer to real ones than to independent tokens, as far as is known."""
    coherence = COHERENCE.of(figures)
    return coherence is not None and coherence.value >= LEAST_COHERENCE


def is_like_real_images(figures: Figures) -> bool:
    """Whether a sampler is coherent, does not copy, and lies as near as real images do."""
    closer = CLOSER.of(figures)
    keeps_distance = closer is not None and LEAST_CLOSER <= closer.value <= MOST_CLOSER
    return is_coherent(figures) and keeps_distance and not copies(figures)


def best_of(samplers: Mapping[str, Figures]) -> str | None:
    """The name of the sampler most like real images: of those that are, and are about as coherent
    as any of them (within the 95 % interval of the most coherent one), the one whose P(closer) is
    nearest to 0.5.

    Where none is, the one that copies least of those that are coherent; where none is coherent, the
    most coherent. None where no coherence is known.
    """
    told = {name: COHERENCE.of(figures) for name, figures in samplers.items()}
    coherence = {name: figure for name, figure in told.items() if figure}
    honest = [name for name in coherence if is_like_real_images(samplers[name])]
    if honest:
        top = max((coherence[name] for name in honest), key=lambda figure: figure.value)
        alike = [name for name in honest if coherence[name].value >= top.low]
        return min(alike, key=lambda name: abs(samplers[name][CLOSER.key].value - 0.5))
    coherent = [name for name in coherence if is_coherent(samplers[name])]
    if coherent:
        return min(coherent, key=lambda name: samplers[name][EXACT_COPIES.key].value)
    return max(coherence, key=lambda name: coherence[name].value, default=None)
