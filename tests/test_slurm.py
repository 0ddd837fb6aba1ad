"""The jobs of docs/cluster.md, as they stand there, run one after another in place of sbatch."""

import os
import re
import sys
from pathlib import Path

import numpy as np

from imagegram.files import read_json
from imagegram.index.folder import Index
from imagegram.samplers import Ntd
from tests.support.corpora import indexed
from tests.support.scripts import ROOT, program
from tests.support.tokenize import contents, tokenize

SMALL = {  # what the document says -> what is run
    "--dataset /shared/images --workers 4": (
        "--dataset shapes --images 300 --codec tiny --shard-size 50 --workers 0"
    ),
    "--shard-images 4000000": "--shard-images 100",
    "--seeds 8": "--seeds 2 --sequences 40 --decoded 0",
    "several 8 ": "several 2 ",
    "several 25 ": "several 2 ",
    ".venv/bin/python": sys.executable,
}
# Of an array the second task alone is run: the single process after it does the killed one's share
SBATCH = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --export=ALL,* ]] && export "${1#--export=ALL,}" SLURM_ARRAY_TASK_ID=1
    [[ $1 == --wrap ]] && set -- -- -c "$2"
    shift
done
bash "$@" >&2
echo 1
"""


def project(folder: Path, changes: dict[str, str]) -> Path:
    """A folder that looks like the project, with the document's scripts, changed, and sbatch."""
    folder.mkdir()
    for name in ("imagegram", "build_index.sh", "tokenize_imagenet_large.py", "generate_images.py"):
        (folder / name).symlink_to(ROOT / name)
    # A script stands after its name: "`NAME.sbatch`: ..." or "`NAME.sh`".
    pattern = r"(?ms)^`(\w+\.(?:sbatch|sh))`.*?\n```bash\n(.*?)^```"
    found = dict(re.findall(pattern, (ROOT / "docs/cluster.md").read_text()))
    assert set(found) == {"tokenize.sbatch", "index.sbatch", "generate.sbatch", "submit.sh"}
    for old, new in changes.items():
        assert any(old in text for text in found.values()), f"{old} is not in the document"
        found = {name: text.replace(old, new) for name, text in found.items()}
    for name, text in (found | {"sbatch": SBATCH}).items():
        (folder / name).write_text(text)
    (folder / "sbatch").chmod(0o755)
    return folder


def test_the_jobs_of_the_document_make_what_one_process_makes(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    folder = project(tmp_path / "project", SMALL | {"/shared": str(shared)})
    path = f"{folder}:{os.environ['PATH']}"
    done = program("submit.sh", start="bash", cwd=folder, PATH=path)
    assert done.stdout == "1\n"
    for left in ("3 of 6 shards to tok", "1 of 3 shards are finished", "1 of 2 seeds are drawn"):
        assert done.stderr.count(left) == 1, done.stderr
    tokenize("shapes", tmp_path / "tokens", images=300, codec="tiny", shard_size=50)
    assert contents(shared / "tokens") == contents(tmp_path / "tokens")
    index = indexed(tmp_path, shard_images=100)
    assert Index.open(shared / "index").identity == index.identity

    report = read_json(shared / "generated/ntd-seed0/report.json")
    assert report["request"]["seeds"] == 2
    seeds = map(np.random.default_rng, (0, 1))
    drawn = [Ntd(context=3).sample(index, 40, rng).tokens for rng in seeds]
    assert np.array_equal(np.load(shared / "generated/ntd-seed0/tokens.npy"), np.concatenate(drawn))
    assert "<dd>0 to 1</dd>" in (shared / "report.html").read_text()
