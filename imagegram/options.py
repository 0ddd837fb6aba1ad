"""How a data set is tokenized: options of both tokenizing scripts, with their only defaults."""

from dataclasses import dataclass

from imagegram.cli import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to tokenize."""

    codec: str = ""
    """"": tiny, or linear for emoji | tiny: digits and scenes | fashion: clothes | linear, fitted
    to the training images in seconds, also as in linear:tokens=16,size=32,levels=8-8-8-5-5-5 | a
    folder that train_tiny_flextok.py wrote, or TOKENS/codec of tokens by a linear one |
    EPFL-VILAB/flextok_d18_d28_dfn or another FlexTok of the hub (NAME@REVISION pins a revision; the
    one used is recorded), or a folder of one"""
    batch_size: int = 256  # images a process at a time; halve it when a GPU runs out of memory
    workers: int = -1
    """loader processes of each process; -1: the cores of the machine, shared by its processes"""
    held_out_share: float = 0.1  # tokenized but never indexed: what every figure is compared with
    jpeg_margin: int = 0
    """above 0: less work for a JPEG and nearly the same pixels (docs/performance.md): decoded at
    1/2, 1/4 or 1/8 of the size while the shorter side is at least so many times that of the codec,
    resized by PyTorch, and decoded by simplejpeg where that is installed"""
    shard_size: int = 10_000  # images a shard, the most that a crash can cost a process

    def check(self) -> None:
        """UserError where a number makes no sense."""
        for option, value in (("batch-size", self.batch_size), ("shard-size", self.shard_size)):
            if value < 1:
                raise UserError(f"--{option} must be at least 1, not {value}")
        if self.jpeg_margin < 0:
            what = f"must not be negative, is {self.jpeg_margin}"
            raise UserError(f"--jpeg-margin {what}; 0 decodes every JPEG whole")
        if self.workers < -1:
            what = "-1 (one for each core), 0 (none) or a number of processes"
            raise UserError(f"--workers must be {what}, not {self.workers}")
        if not 0 <= self.held_out_share < 1:
            what = "a share of the images from 0 to below 1 (0.1: a tenth)"
            raise UserError(f"--held-out-share is {what}, not {self.held_out_share}")
