"""The jobs of docs/cluster.md, as they stand there, run by a Slurm of three nodes."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from imagegram.files import is_held, read_json
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.samplers import Ntd
from tests.support.slurm import missing, running, scripts
from tests.support.tokenize import contents, tokenize
from tests.test_scripts import run_generate

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/cluster.md"
SMALL = {  # what the document says -> what is run
    "--dataset /shared/images --workers 4": "--dataset shapes --images 300 --codec tiny --shard-size 50 --workers 0",
    "--shard-images 4000000": "--shard-images 100",
    "--seeds 8": "--seeds 2 --sequences 40 --decoded 0",
    "several 8 ": "several 2 ",
    "several 25 ": "several 2 ",
    ".venv/bin/python": sys.executable,
}


def project(folder: Path, changes: dict[str, str]) -> Path:
    """A folder that looks like the project, with the scripts of the document in it, changed."""
    folder.mkdir()
    for name in ("imagegram", "build_index.sh", "tokenize_imagenet_large.py", "generate_images.py"):
        (folder / name).symlink_to(ROOT / name)
    found = scripts(DOCUMENT)
    assert set(found) == {"tokenize.sbatch", "index.sbatch", "generate.sbatch", "submit.sh"}
    for old, new in changes.items():
        assert any(old in text for text in found.values()), f"{old} is not in the document"
        found = {name: text.replace(old, new) for name, text in found.items()}
    for name, text in found.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.timeout(600)
def test_the_jobs_of_the_document_make_what_one_process_makes(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    folder = project(tmp_path / "project", SMALL | {"/shared": str(shared)})
    with running(tmp_path / "slurm") as slurm:
        slurm.environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        last = slurm.run("bash", "submit.sh", cwd=folder).strip()
        try:
            assert set(slurm.finish(last).values()) == {"COMPLETED"}
        finally:
            logs = "\n".join(log.read_text() for log in sorted(shared.glob("logs/*.out")))
            print(logs, slurm.run("squeue", "-r", "-t", "all"))
    tokens = tokenize("shapes", tmp_path / "tokens", images=300, codec="tiny", shard_size=50).path
    assert contents(shared / "tokens") == contents(tokens)
    index = build_index([tokens], tmp_path / "input", tmp_path / "index", builder="divsufsort", shard_images=100)
    assert Index.open(shared / "index").identity == index.identity

    report = read_json(shared / "generated/ntd-seed0/report.json")
    assert report["request"]["seeds"] == 2
    drawn = [Ntd(context=3).sample(index, 40, np.random.default_rng(seed)).tokens for seed in (0, 1)]
    assert np.array_equal(np.load(shared / "generated/ntd-seed0/tokens.npy"), np.concatenate(drawn))
    assert "<dd>0 to 1</dd>" in (shared / "report.html").read_text()


HOUR = 3600.0
TABLE = "JobArrayID:8,Name:18,State:12,RestartCnt:12,NodeList:10,StartTime:22,EndTime:22"
TWIN = (
    "--parsable",
    "--array=5",
    "--export=ALL,TASKS=8",
    "--cpus-per-task=1",
    "--nice=-1000",
)  # at once, in spare cores
IMAGES = int(os.environ.get("SLURM_IMAGES", 0))
LARGE = {  # of the document as well, whose numbers of tasks are kept but for the index
    "--dataset /shared/images": f"--dataset shapes --images {IMAGES} --codec tiny --shard-size {max(1, IMAGES // 20)}",
    "--workers 4": "--workers 0",
    "--shard-images 4000000": f"--shard-images {max(1, IMAGES // 4)}",
    "ntd --context": "--decoded 8 ntd --context",
    "several 25 ": "several 4 ",
    ".venv/bin/python": sys.executable,
}


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.skipif(not IMAGES, reason="takes up to an hour: SLURM_IMAGES=50000 pytest tests/test_slurm.py runs it")
@pytest.mark.timeout(3 * 3600)
def test_killed_tasks_and_a_lost_node_change_nothing(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    folder = project(tmp_path / "project", LARGE | {"/shared": str(shared)})
    with running(tmp_path / "slurm") as slurm:
        slurm.environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        last = int(slurm.run("bash", "submit.sh", cwd=folder))
        tokenizing, indexing, generating = (str(last - back) for back in (6, 4, 2))
        # A task is killed and requeued, another one is submitted twice, a node goes away and comes back.
        slurm.wait((shared / "tokens/shard-00002.json").exists, HOUR)  # of three that it is to make
        slurm.kill_task(tokenizing, 2, HOUR)
        slurm.requeue(tokenizing, 2)
        slurm.wait(lambda: is_held(shared / "tokens/.lock-5"), HOUR)
        for pid in slurm.processes(SLURM_ARRAY_TASK_ID="5"):
            os.kill(pid, signal.SIGSTOP)  # so that it still runs when its twin does
        node = slurm.run("squeue", "-h", "-r", "-j", f"{tokenizing}_5", "-o", "%N").strip()
        twin = slurm.run("sbatch", *TWIN, "tokenize.sbatch", cwd=folder).strip()
        assert slurm.finish(twin, HOUR) == {f"{twin}_5": "FAILED"}
        assert " is in use by process " in "".join(log.read_text() for log in shared.glob("logs/tokenize*"))
        slurm.lose_node(node)
        slurm.wait(lambda: "down" in slurm.run("sinfo", "-h", "-n", node, "-o", "%T"), 120)
        slurm.start_node(node)

        slurm.kill_task(indexing, 1, HOUR)
        slurm.requeue(indexing, 1)
        slurm.wait(lambda: is_held(shared / "generated/ntd-seed0/.lock-1"), 2 * HOUR)
        slurm.kill_task(generating, 1, HOUR)
        slurm.requeue(generating, 1)
        states = [slurm.finish(str(job), HOUR) for job in range(last - 6, last + 1)]
        print(slurm.run("squeue", "-r", "-t", "all", "-O", TABLE))
        print((slurm.folder / "jobs.log").read_text())
        assert {state for job in states for state in job.values()} == {"COMPLETED"}
        print((tmp_path / "slurm/slurmctld.log").read_text())

    tokens = tokenize("shapes", tmp_path / "tokens", images=IMAGES, codec="tiny", shard_size=IMAGES // 20).path
    assert contents(shared / "tokens") == contents(tokens)
    made = shared / "generated/ntd-seed0"
    settings = ["--index", str(shared / "index"), "--seeds", "8", "--decoded", "8", "ntd", "--context", "3"]
    assert run_generate(*settings, "--out", str(tmp_path / "again")) == 0
    for name in ("generated", "held_out"):
        assert read_json(made / "report.json")[name] == read_json(tmp_path / "again/report.json")[name]
    assert (made / "tokens.npy").read_bytes() == (tmp_path / "again/tokens.npy").read_bytes()
