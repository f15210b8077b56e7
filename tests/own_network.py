"""Machines made of network namespaces, and daemons that end with the test (Linux, root).

Names contain this process's id, and the network is unused: simultaneous test runs do not
interfere.
"""

import itertools
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

_letters = itertools.cycle("abcdefghij")


def run(*command: str, check: bool = True) -> str:
    """Run a command to its end; returns what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not (check and done.returncode), f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class OwnNetwork:
    """A bridge, which has the network's first address, and behind it namespaces that see it.

    Attributes:
        address: of the bridge, where this machine answers.
        addresses: of the machines, by their names.
    """

    def __init__(self, machines: Sequence[str]):
        self._unique = f"wf{os.getpid()}{next(_letters)}"
        self._left = ExitStack()
        taken = run("ip", "-oneline", "-4", "address")
        networks = (f"10.{second}.{os.getpid() % 250}" for second in range(215, 255))
        network = next(network for network in networks if f"{network}." not in taken)
        self.address = f"{network}.1"
        self.addresses = {name: f"{network}.{n}" for n, name in enumerate(machines, 11)}

    def make(self) -> None:
        bridge = self._unique
        self._ip(f"link add {bridge} type bridge", undo=f"link delete {bridge}")
        self._ip(f"address add {self.address}/24 dev {bridge}")
        self._ip(f"link set {bridge} up")
        for machine, address in self.addresses.items():
            inside, link = self._namespace(machine), self._link(machine)
            self._ip(f"netns add {inside}", undo=f"netns delete {inside}")
            self._ip(f"link add {link} type veth peer name eth0 netns {inside}")
            self._ip(f"link set {link} master {bridge}")
            self.connect(machine)
            self._ip(f"-n {inside} address add {address}/24 dev eth0")
            for name in ("lo", "eth0"):
                self._ip(f"-n {inside} link set {name} up")

    def _ip(self, words: str, undo: str = "") -> None:
        run("ip", *words.split())
        if undo:
            self._left.callback(run, "ip", *undo.split(), check=False)

    def _namespace(self, machine: str) -> str:
        return f"{self._unique}-{machine}"

    def _link(self, machine: str) -> str:
        return f"{self._unique}{list(self.addresses).index(machine)}"

    def connect(self, machine: str, up: bool = True) -> None:
        """Plug a machine's cable in, or pull it out: others then hear nothing, not even an end."""
        self._ip(f"link set {self._link(machine)} {'up' if up else 'down'}")

    def on(self, machine: str, line: str, hosts: Path) -> tuple[str, ...]:
        """A command for a shell line on a machine, under its name and with this hosts file.

        Not by `ip netns exec`, which would mount /sys anew, without the control groups.
        """
        enter = ("nsenter", f"--net=/run/netns/{self._namespace(machine)}")
        prepare = f"mount --bind '{hosts}' /etc/hosts && hostname {machine}"
        return (*enter, "unshare", "--uts", "--mount", "bash", "-c", f"{prepare} && {line}")

    def kill_all_on(self, machine: str) -> None:
        """SIGKILL every process that runs on a machine."""
        for pid in run("ip", "netns", "pids", self._namespace(machine), check=False).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        for machine in self.addresses:
            self.kill_all_on(machine)
        self._left.close()


class Daemons:
    """Processes that stay until they are ended, each with a log of its own."""

    def __init__(self, logs: Path, environment: dict[str, str]):
        self._logs, self._environment = logs, environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """In a session of its own: Ctrl-C in a terminal is for the tests, which then end it."""
        with open(self._logs / name, "ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Nothing where it was ended before."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end_all(self) -> None:
        """The last that was started first."""
        for name in reversed(list(self._processes)):
            self.end(name)

    def last_words(self) -> list[str]:
        """The end of each log."""
        logs = sorted(self._logs.iterdir()) if self._logs.is_dir() else []
        return [f"{log.name}:\n{log.read_text(errors='replace')[-700:]}" for log in logs]
