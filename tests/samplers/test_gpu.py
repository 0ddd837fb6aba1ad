"""The kernel sampler on a GPU, where there is one, in a process of its own: all other tests run on
the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagegram.samplers import Kernel
from tests.conftest import GPUS
from tests.support.corpora import index_of

ASK = """
import sys, numpy, torch
from pathlib import Path
from imagegram.index.folder import Index
from imagegram.samplers import Kernel
index = Index.open(Path(sys.argv[1]))
numpy.save(sys.argv[2], Kernel().probabilities(index, numpy.array(index.tokens[:20])))
numpy.save(sys.argv[3], Kernel().sample(index, 1000, numpy.random.default_rng(0)).tokens)
print(torch.cuda.is_available())
"""


@pytest.mark.skipif(not Path("/dev/nvidia0").exists() or not GPUS, reason="no NVIDIA GPU")
def test_a_gpu_predicts_and_draws_what_the_cpu_does(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.random.default_rng(0).integers(0, 512, (60, 6)))
    expected = Kernel().probabilities(index, np.array(index.tokens[:20]))  # and the fit is kept
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": GPUS}
    if GPUS == "all":
        del environment["CUDA_VISIBLE_DEVICES"]
    files = [tmp_path / "found.npy", tmp_path / "drawn.npy"]
    command = [sys.executable, "-c", ASK, str(index.path), *map(str, files)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.split()[-1] != "True":
        pytest.skip("this PyTorch cannot use the GPU")
    assert np.allclose(np.load(files[0]), expected, rtol=1e-3)
    # The same numbers are drawn from probabilities that are rounded otherwise.
    drawn = Kernel().sample(index, 1000, np.random.default_rng(0)).tokens
    assert (np.load(files[1]) == drawn).all(1).mean() > 0.99
