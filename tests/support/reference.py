"""The plain infini-gram as the first experiments had it: one call of Fastgram's ntd() a token."""

from collections.abc import Sequence

from imagegram.index.engine import Engine
from imagegram.tokens import TERMINATOR


def ntd(engine: Engine, context: Sequence[int], max_support: int = 1 << 16) -> dict[int, int]:
    """What follows the longest suffix of `context` that has a token after it, with counts.

    A suffix after which only images end is passed over for the next shorter one. Of more than
    `max_support` matches Fastgram looks at a part.
    """
    suffix = list(context)
    while True:
        answer = engine.gram.ntd(suffix, max_support)
        follows = answer["result_by_token_id"].items()
        counts = {token: entry["cont_cnt"] for token, entry in follows if token < TERMINATOR}
        if counts or not suffix:
            return counts
        suffix = suffix[len(suffix) - answer["suffix_len"] + 1 :]
