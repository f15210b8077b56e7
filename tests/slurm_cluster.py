"""A temporary real Slurm with two nodes on this machine (Linux, root).

Each node has its own address, hostname and hosts file, so processes on two nodes connect over a
network. As at many sites, the nodes' names are Slurm's alone, and a machine's own name means
127.0.1.1 there. The nodes' simulated cores, memory and GPUs only affect Slurm's scheduling. All
files are in one temporary folder, and ports and network are unused: several clusters do not
interfere.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from own_network import Daemons, OwnNetwork

NODES = ("node1", "node2")
CPUS, MEGABYTES, GPUS = 8, 16_000, 4
PACKAGES = {
    "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge",
    "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux",
}  # fmt: skip
"""Debian packages by the commands in them."""
FOR_ACCOUNTING = {
    "slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core", "mariadb": "mariadb-client-core",
}  # fmt: skip
NULL_DEVICE = os.makedev(1, 3)
FREE_PORTS = """
import socket
held = [socket.socket() for _ in range(3)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
"""
SETTINGS = """\
ClusterName=workflow
SlurmctldHost={here}({address})
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
MailProg=/bin/true
# Avoid systemd and control groups, which containers may lack.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,sched_min_interval=500000
ReturnToService=2
SlurmdTimeout=20
MinJobAge={min_job_age}
{accounting}
NodeName={nodes} NodeHostname={hostnames} NodeAddr={addresses} Port=6818 CPUs={cpus} \
RealMemory={megabytes} Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
"""slurm.conf. A requeued job waits for the lifetime of credentials, by default two minutes."""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[1]}
AccountingStoragePass={folder}/munge
"""
DATABASE = """\
AuthInfo=socket={folder}/munge
DbdHost=localhost
DbdPort={ports[1]}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[2]}
StorageUser=slurm
StoragePass=slurm
PidFile={folder}/slurmdbd.pid
"""


def missing(accounting: bool = False) -> str:
    """Name the missing commands and their packages; empty if none is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a temporary Slurm needs Linux, and root for the networks of its nodes"
    wanted = PACKAGES | (FOR_ACCOUNTING if accounting else {})
    lacking = {name: package for name, package in wanted.items() if shutil.which(name) is None}
    if not lacking:
        return ""
    packages = " ".join(dict.fromkeys(lacking.values()))
    return f"{', '.join(lacking)} not found: apt-get install --no-install-recommends {packages}"


class SlurmCluster:
    """Slurm with the partitions `main` and `high`, whose jobs preempt those of `main` (requeue).

    A context manager: inside it, all daemons run and the nodes are idle at the start.

    Args:
        accounting: whether to run a job database for `sacct`.
        min_job_age: seconds for which the controller keeps an ended job (checked each minute).
    """

    def __init__(self, accounting: bool = False, min_job_age: int = 300):
        self.accounting, self.min_job_age = accounting, min_job_age

    def __enter__(self) -> Self:
        if message := missing(self.accounting):
            raise RuntimeError(message)
        self.folder = Path(tempfile.mkdtemp(prefix="workflow-slurm-"))
        self.folder.chmod(0o755)  # munge requires a socket that everybody can reach
        found = subprocess.check_output([sys.executable, "-c", FREE_PORTS], text=True)
        self._ports = found.split()  # from another process: this one may not open sockets
        self._network = OwnNetwork(NODES)
        self._daemons = Daemons(self.folder / "log", self.environment)
        try:
            self._network.make()
            self._write_files()
            self._start()
        except BaseException as error:
            for words in self._daemons.last_words():
                error.add_note(words)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop everything, jobs first."""
        for node in NODES:
            self.kill_slurmd(node)
        self._network.remove()
        self._daemons.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment for Slurm's commands, without variables of a job around the tests."""
        kept = {name: v for name, v in os.environ.items() if not name.startswith("SLURM")}
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command that uses this cluster, and wait for it."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert not (check and done.returncode), f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def queue(self, line: str, *options: str) -> str:
        """Queue a shell line as a job without a log; returns its job ID."""
        words = ("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={line}")
        return self.run(*words).stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`; empty once the controller has dropped the job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", number, check=False).stdout
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)

    def wait_for(self, predicate: Callable[[], object], seconds: float, message: str = "") -> None:
        """Wait until the predicate is true; after a time-out, fail and show the queue."""
        last = time.monotonic() + seconds
        while not predicate():
            if time.monotonic() > last:
                queue = self.run("squeue", "--all", check=False).stdout
                raise AssertionError(f"{message or 'not true'} after {seconds:g} s\n{queue}")
            time.sleep(0.2)

    def wait_for_state(self, number: str, state: str, seconds: float) -> None:
        message = f"job {number} is not {state}"
        self.wait_for(lambda: self.job(number).get("JobState") == state, seconds, message)

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until no job is left and both nodes accept jobs."""
        words = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        idle = ["idle"] * len(NODES)
        self.wait_for(lambda: self.run(*words).stdout.split() == idle, seconds, "not idle")

    def start_slurmd(self, node: str) -> None:
        """Start a node's daemon, like a reboot if the node was lost."""
        self._network.connect(node)
        line = f"hostname {_hostname(node)} && exec slurmd -D -N {node}"
        hosts = self.folder / f"hosts.{node}"
        self._daemons.start(_slurmd(node), *self._network.on(node, line, hosts))

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL a node's daemon; the processes of its jobs keep running."""
        self._daemons.end(_slurmd(node), signal.SIGKILL)

    def lose(self, node: str) -> None:
        """Kill everything on a node at once, like a power failure."""
        self._network.connect(node, up=False)
        self.kill_slurmd(node)
        self._network.kill_all_on(node)

    def _start(self) -> None:
        key = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed")]
        socket_name = f"--socket={self.folder}/munge"
        self._daemons.start("munged", "munged", "--foreground", *key, socket_name,
                            f"--log-file={self.folder}/log/munge")  # fmt: skip
        self._wait_for_answer("munge", socket_name, "--no-input")
        if self.accounting:
            self._start_accounting()
        self._daemons.start("slurmctld", "slurmctld", "-D")
        self._wait_for_answer("scontrol", "ping")
        for node in NODES:
            self.start_slurmd(node)
        self.wait_until_idle()

    def _start_accounting(self) -> None:
        to = f"--socket={self.folder}/mariadb.socket"
        plain = ("--no-defaults", "--user=root", f"--datadir={self.folder}/mariadb")
        self.run("mariadb-install-db", *plain, "--auth-root-authentication-method=normal")
        self._daemons.start("mariadbd", "mariadbd", *plain, to, f"--port={self._ports[2]}",
                            "--bind-address=127.0.0.1", f"--pid-file={self.folder}/mariadb.pid",
                            "--innodb-buffer-pool-size=64M")  # fmt: skip
        grant = "grant all on slurm_acct_db.* to slurm@localhost identified by 'slurm'"
        self._wait_for_answer("mariadb", "--no-defaults", to, "--execute", grant)
        self._daemons.start("slurmdbd", "slurmdbd", "-D")
        self._wait_for_answer("sacctmgr", "--immediate", "--noheader", "show", "cluster")

    def _wait_for_answer(self, *command: str) -> None:
        last = time.monotonic() + 30
        while (done := self.run(*command, check=False)).returncode:
            assert time.monotonic() < last, f"{' '.join(command)}: {done.stderr}"
            time.sleep(0.2)

    def _write_files(self) -> None:
        """Write Slurm's configuration files, all next to slurm.conf, where it expects them."""
        for name in ("log", "state", "dev", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        accounting = (
            ACCOUNTING.format(folder=self.folder, ports=self._ports) if self.accounting else ""
        )
        filled = SETTINGS.format(
            here=socket.gethostname().partition(".")[0], address=self._network.address,
            folder=self.folder, ports=self._ports, min_job_age=self.min_job_age,
            accounting=accounting, nodes=",".join(NODES),
            hostnames=",".join(map(_hostname, NODES)), cpus=CPUS, megabytes=MEGABYTES,
            gpus=GPUS, addresses=",".join(self._network.addresses.values()),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(filled)
        for number in range(GPUS):
            os.mknod(self.folder / f"dev/gpu{number}", stat.S_IFCHR | 0o666, NULL_DEVICE)
        devices = f"Name=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(devices)
        (self.folder / "cgroup.conf").write_text(_control_groups())
        database = self.folder / "slurmdbd.conf"
        database.write_text(DATABASE.format(folder=self.folder, ports=self._ports))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        for secret in (database, key):
            secret.chmod(0o600)  # required permissions
        for node in NODES:
            known = self._network.addresses | {node: "127.0.1.1"}
            lines = [f"{address} {_hostname(one)}\n" for one, address in known.items()]
            hosts = "".join(["127.0.0.1 localhost\n", *lines])
            (self.folder / f"hosts.{node}").write_text(hosts)


def _hostname(node: str) -> str:
    return f"machine-of-{node}"


def _slurmd(node: str) -> str:
    return f"slurmd.{node}"


def _control_groups() -> str:
    """Provide a hierarchy of control groups: slurmd requires it, though nothing here uses it."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"
    mounted = "/sys/fs/cgroup" in Path("/proc/mounts").read_text()
    return "CgroupPlugin=cgroup/v1\n" + ("" if mounted else "CgroupAutomount=yes\n")
