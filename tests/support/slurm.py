"""A Slurm of several nodes on this machine's loopback, as whoever runs it: for what docs/cluster.md says.

Nothing is installed or left behind: the configuration, the logs and the state are in one folder. Every node claims more
cores, memory and GPUs than there are, so that the jobs of the document are taken as they stand.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GPUS = 4  # that a node claims
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
MpiDefault=none
JobRequeue=1
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.log
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=36000
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] \
CPUs=5 RealMemory=131072 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; "" where it can."""
    gone = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    return f"Slurm is not installed (Debian: apt-get install slurm-wlm): no {', '.join(gone)}" if gone else ""


class Slurm:
    """A running one; `run` gives its commands."""

    def __init__(self, folder: Path, nodes: int):
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything, and wait until all nodes can be used."""
        first = _free_ports(1 + len(self.nodes))
        ports = (first, first + 1, first + len(self.nodes))
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        for number in range(GPUS):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                folder=self.folder,
                ports=ports,
                nodes=len(self.nodes),
                gpus=GPUS,
            )
        )
        self._start("slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T").split() == ["idle"], 30)

    def start_node(self, node: str) -> None:
        self._start(node, "-D", "-N", node, program="slurmd")

    def _start(self, name: str, *options: str, program: str = "") -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [program or name, *options], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def processes(self, **environment: str) -> list[int]:
        """Those of jobs whose environment has these values."""
        wanted = {f"{name}={value}".encode() for name, value in environment.items()}
        wanted.add(f"SLURM_CONF={self.environment['SLURM_CONF']}".encode())
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
        return found

    def kill_task(self, job: str, task: int, seconds: float) -> None:
        """Kill a task when it runs, without a word, as the kernel does where memory is short."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = self.processes(SLURM_ARRAY_JOB_ID=job, SLURM_ARRAY_TASK_ID=str(task))
            return bool(found)

        self.wait(is_there, seconds)
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def requeue(self, job: str, task: int) -> None:
        """Requeue a task when it is known to have failed."""
        self.wait(lambda: self.states(job)[f"{job}_{task}"] == "FAILED", 60)
        self.run("scontrol", "requeue", f"{job}_{task}")

    def lose_node(self, node: str) -> None:
        """Kill a node at once with all that runs on it, as a power cut does."""
        jobs = self.processes(SLURMD_NODENAME=node)
        parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in jobs}
        self.daemons.pop(node).kill()
        for pid in (*(parents - {1, *jobs}), *jobs):  # whoever would report what became of the jobs first
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command: str, **options: object) -> str:
        """What a command of Slurm prints; RuntimeError with what it says where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, **options)  # type: ignore
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """The state of every task of a job, by JOB_TASK."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def finish(self, job: str, seconds: float = 500) -> dict[str, str]:
        """Wait for all tasks of a job; their states."""
        busy = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"}
        self.wait(lambda: not busy.intersection(self.states(job).values()), seconds)
        return self.states(job)

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Until `ready`; TimeoutError, with the queue, where that takes too long."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RuntimeError):  # not yet answering
                if ready():
                    return
            if time.monotonic() > end:
                raise TimeoutError(self.run("squeue", "-r", "-t", "all") + self.run("sinfo", "-N", "-l"))
            time.sleep(0.1)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.run("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
            self.run("scancel", "--user", getpass.getuser())
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for pid in self.processes():  # what would report to them for ever
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(folder: Path, nodes: int = 3) -> Iterator[Slurm]:
    """A Slurm in `folder`, stopped at the end."""
    slurm = Slurm(folder, nodes)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def scripts(document: Path) -> dict[str, str]:
    """The shell scripts of a document, by the names that stand before them: "`NAME.sbatch`: ..." or "`NAME.sh`"."""
    pattern = r"^`(\w+\.(?:sbatch|sh))`.*?\n```bash\n(.*?)^```"
    return dict(re.findall(pattern, document.read_text(), re.MULTILINE | re.DOTALL))


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in range(20_000 + os.getpid() % 10_000, 60_000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")
