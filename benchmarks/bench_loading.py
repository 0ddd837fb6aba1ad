"""How many images a second a core loads and preprocesses, and how many cores a GPU needs: the host's side alone.

    python -m benchmarks.bench_loading

Photographs (random crops of scikit-learn's two) as JPEGs in a saved Hugging Face data set, read as the tokenizing
scripts read them: of 256 x 256, which are decoded only, and of 500 x 375, ImageNet's usual size, which are also
resized and cropped. Measured in one process, then with a loader process on every core. `handed_over` has nothing to
decode: what the loader's processes can pass on and the main one take in. Prints a line each and a `---` block.
"""

import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from imagegram.cli import run_script, summary
from imagegram.data.dataset import ImageDataset
from imagegram.data.loading import load_batches
from imagegram.data.spec import DatasetSpec
from imagegram.machine import cores

SIZE = 256  # what FlexTok takes
GPU = 1362  # img/s: an H200 at its measured peak needs so many for tokenizing (d18 encoder and VAE in float16)


@dataclass
class Config:
    images: int = 1500  # read in each measurement
    batch_size: int = 64
    quality: int = 90  # of the JPEGs
    repeats: int = 3  # the fastest counts: whatever else runs can only slow it down


def save_photographs(folder: Path, width: int, height: int, config: Config) -> float:
    """Write a data set of 100 different crops; returns their mean size in bytes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    files = []
    for i in range(100):
        photograph = photographs[i % 2]
        side = rng.uniform(0.5, 1) * min(photograph.width / width, photograph.height / height)
        w = side * width
        h = side * height
        x = rng.uniform(0, photograph.width - w)
        y = rng.uniform(0, photograph.height - h)
        buffer = io.BytesIO()
        crop = photograph.resize((width, height), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
        crop.save(buffer, "JPEG", quality=config.quality)
        files.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": files}, features=features).save_to_disk(folder)
    return float(np.mean([len(file["bytes"]) for file in files]))  # type: ignore[arg-type]


def rate(source: ImageDataset, workers: int, config: Config) -> float:
    """Images a second from the first batch on: starting the processes is not counted."""
    order = [i % len(source) for i in range(config.images)]
    batches = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    fastest = 0.0
    for _ in range(config.repeats):
        loaded = iter(load_batches(source, batches, SIZE, workers))
        started = 0.0
        read = 0
        for batch in loaded:
            started, read = (time.perf_counter(), 0) if not started else (started, read + len(batch))
            assert all(image is not None for _, image, _, _ in batch)
        fastest = max(fastest, read / (time.perf_counter() - started))
    return fastest


def main(config: Config) -> None:
    workers = cores()
    found = dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        for name, width, height in (("256x256", 256, 256), ("500x375", 500, 375)):
            size = save_photographs(Path(folder) / name, width, height, config)
            source = DatasetSpec(str(Path(folder) / name)).open()
            one = rate(source, 0, config)
            all_ = rate(source, workers, config)
            print(
                f"JPEGs of {name} ({size / 1000:.0f} kB): {one:.0f} img/s in one process, {all_:.0f} in {workers} "
                f"loader processes; {GPU} img/s need {-(-GPU // one):.0f} cores"
            )
            found |= {f"one_process_{name}": one, f"all_cores_{name}": all_}
    ready = Image.new("RGB", (SIZE, SIZE))
    found["handed_over"] = rate(ImageDataset("ready", "", "", 100, lambda i: (ready, -1)), workers, config)
    summary(cores=workers, **found)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
