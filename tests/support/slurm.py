"""A Slurm of its own on this machine: two nodes, as the user who calls, with all its files in one folder.

Needs Debian's slurmctld, slurmd, slurm-client and munge (.ci/debian installs them), but neither systemd nor cgroups.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports
from vqr1 import child_process

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
# Where Debian has daemons, for a user whose PATH lacks it.
PATH = os.environ["PATH"] + ":/usr/sbin"
NODES = ("here1", "here2")
GPUS = 2  # of each
# A requeued job waits until the credential of its last start has expired, two minutes by default.
REQUEUED_AFTER = 5  # seconds
GOING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


@dataclass(frozen=True)
class Slurm:
    """Nodes of two GPUs that are none: jobs get CUDA_VISIBLE_DEVICES and no device."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return {**inherited, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of Slurm's, or of something that uses it, with ``more`` in its environment."""
        done = subprocess.run(words, env={**self.environment, **more}, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def field(self, job: str, name: str) -> str:
        """What ``scontrol show job`` says of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job).stdout.split()
        return next(word.partition("=")[2] for word in shown if word.startswith(f"{name}="))

    def ended(self, job: str, seconds: float) -> str:
        """The state in which a job is left, once it neither waits nor runs."""
        self.until(lambda: self.field(job, "JobState") not in GOING, seconds)
        return self.field(job, "JobState")

    def until(self, true: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                logs = "".join(file.read_text()[-3000:] for file in sorted(self.folder.glob("*.log")))
                jobs = self.run("scontrol", "show", "job", check=False).stdout
                raise AssertionError(f"not after {seconds} s\n{jobs}\n{logs}")
            time.sleep(0.5)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Started, and ended with every job and daemon."""
    made = Slurm(folder)
    (folder / "slurm.conf").write_text(_configuration(folder))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null,/dev/zero\n")  # no job opens them
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "state").mkdir()
    subprocess.run(["mungekey", "--create", "--keyfile", folder / "key"], env=made.environment, check=True)
    files = {"key-file": "key", "socket": "munge", "pid-file": "pid", "seed-file": "seed", "log-file": "munge.log"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    with ExitStack() as daemons:
        # --force: folders of pytest's are not as closed as a service asks for
        daemons.enter_context(_daemon(made, "munged", "--foreground", "--force", *options))
        made.until(lambda: (folder / "munge").exists(), 10)
        daemons.enter_context(_daemon(made, "slurmctld", "-D", "-c"))
        for node in NODES:
            daemons.enter_context(_daemon(made, "slurmd", "-D", "-N", node))
        states = ("sinfo", "--Node", "--noheader", "--format=%t")
        made.until(lambda: made.run(*states, check=False).stdout.split() == ["idle"] * len(NODES), 30)
        try:
            yield made
        finally:
            made.run("scancel", "--user", getpass.getuser())
            made.until(lambda: not made.run("squeue", "--noheader").stdout.strip(), 60)


@contextmanager
def _daemon(made: Slurm, name: str, *options: str) -> Iterator[None]:
    program = shutil.which(name, path=PATH)
    assert program is not None, name
    # By child_process: a daemon is killed with the tests.
    command = [sys.executable, "-I", child_process.__file__, str(os.getpid()), program, *options]
    process = subprocess.Popen(
        command, env=made.environment, cwd=made.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configuration(folder: Path) -> str:
    user, host = getpass.getuser(), socket.gethostname()
    controller, *ports = free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={2 * GPUS} Gres=gpu:{GPUS}"
        for name, port in zip(NODES, ports, strict=True)
    )
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire={REQUEUED_AFTER}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=here Nodes={",".join(NODES)} Default=YES MaxTime=60 State=UP
"""
