"""The picture of a fitted kernel: which position of an image listens to which."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLACK = 40.0  # percent, the end of the colours


def draw_listening(shares: NDArray[np.floating]) -> Image.Image:
    """Shares [L, L] of `Kernel.listening` as a heat map: a row for each token predicted, a column for each heard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    length = len(shares)
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    later = np.arange(length)[None] > np.arange(length)[:, None]
    heard = np.ma.masked_array(100 * shares, later)  # what comes later is not heard: blank
    edges = (0.5, length + 0.5, length + 0.5, 0.5)  # positions from 1
    # The first rows have little to listen to: what is above is black.
    drawn = axes.imshow(heard, cmap="magma_r", vmin=0, vmax=BLACK, interpolation="nearest", extent=edges)
    axes.set(xlabel="listens to token", ylabel="predicting token")
    axes.set_title("Which token tells images apart when the next is predicted", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(drawn, label="% of the distance (a row: 100 %)", extend="max")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
