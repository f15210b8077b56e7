"""The network between the machines of a world: interfaces, and who reaches whom."""

import socket
from collections.abc import MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import psutil  # type: ignore[import-untyped]

LONGEST_MEETING = 100
"""Seconds in which a process reaches the one that holds the store."""
LONGEST_ANSWER = 10
"""Seconds in which a machine that was reached accepts another connection."""


def meet(host: str, rank: int, size: int, store: Any, environment: MutableMapping[str, str]) -> str:
    """Set the interface of gloo and NCCL, unless set, and check that all machines use it.

    Their own choices may not lead to the other machines: gloo takes the address of the machine's
    name, 127.0.1.1 on Debian, and NCCL any interface that is up. Both wait long in vain.

    Args:
        host: name or address of the machine whose store all processes have reached.

    Returns:
        the same message in all processes if a machine cannot reach another one, else "".
    """
    own = address_towards(host)
    store.set(f"address {rank}", own)
    if ip_address(own).is_loopback:  # on that machine its name may mean itself
        found = store.multi_get([f"address {other}" for other in range(size)])
        others = [text.decode() for text in found if not ip_address(text.decode()).is_loopback]
        if not others:  # all processes are here
            return ""
        own = address_towards(others[0])
    if name := interface_with(own):
        environment.setdefault("GLOO_SOCKET_IFNAME", name)
        environment.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # without = it is a prefix
    return _reach_all(own, rank, size, store)


def _reach_all(own: str, rank: int, size: int, store: Any) -> str:
    """Connect to one process of each machine, and return the first failure of all processes."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with socket.create_server((own, 0), family=family, backlog=size) as server:
        store.set(f"place {rank}", f"{own} {server.getsockname()[1]}")
        places = store.multi_get([f"place {other}" for other in range(size)])
        store.set(f"failure {rank}", _failure(dict(place.decode().split() for place in places)))
        failures = store.multi_get([f"failure {other}" for other in range(size)])
    return next((failure.decode() for failure in failures if failure), "")


def _failure(ports: dict[str, str]) -> str:
    """The message about the first address that does not answer, else "".

    The kernel answers for the process.
    """
    for address, port in ports.items():
        try:
            socket.create_connection((address, int(port)), LONGEST_ANSWER).close()
        except OSError as error:
            return unreachable(address, int(port), LONGEST_ANSWER, error)
    return ""


def address_towards(host: str) -> str:
    """This machine's address on the route to another one; nothing is sent.

    Raises:
        OSError: if there is no route, or no such name.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as one, suppress(OSError):
            one.connect(address)
            return str(one.getsockname()[0])
    raise OSError(f"no route to {host}")


def interface_with(address: str) -> str | None:
    """The name of the interface that has this address, if one is listed with it."""
    interfaces = psutil.net_if_addrs().items()
    having = (name for name, those in interfaces if address in (one.address for one in those))
    return next(having, None)


def why_unreachable(host: str, port: int) -> str:
    """The message after waiting for the process that holds the store."""
    try:
        socket.create_connection((host, port), LONGEST_ANSWER).close()
    except OSError as error:
        return unreachable(host, port, LONGEST_MEETING, error)
    return unreachable(host, port, LONGEST_MEETING, OSError("it answered later"))


def unreachable(host: str, port: int, seconds: int, error: OSError) -> str:
    """The message about a machine that this one cannot reach."""
    return (
        f"{socket.gethostname()} cannot reach {host}:{port} within {seconds} s: "
        f"{error.strerror or error} (expected TCP connections between all machines of the job). "
        "Hint: look for errors of the job's other processes, and for a firewall; or run without "
        "this machine."
    )
