"""Pictures of a run: as many as asked for, or as there are."""

import numpy as np

from imagegram.generating import Decoder, Request, decode
from imagegram.sampling.sampler import Samples
from imagegram.sampling.settings import Settings
from tests.support.fake_codec import FakeCodec


def test_fewer_sequences_than_pictures_asked_for_are_all_shown() -> None:
    codec = FakeCodec()
    tokens = np.zeros((5, codec.tokens_per_image), np.uint16)
    samples = Samples(tokens, np.zeros((*tokens.shape, 2), np.int64))
    pictures, seeds = decode(Decoder(codec, 1, 1.0), samples, Request(Settings(), sequences=9, images=9, seed=2))
    assert len(pictures) == len(seeds) == 5
    assert seeds.tolist() == [2_000_000 + i for i in range(5)]
