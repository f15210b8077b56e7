"""The choice of interfaces on this machine; test_two_hosts.py has several machines."""

import socket
from ipaddress import ip_address

import psutil
import pytest
from torch.distributed import HashStore

from workflow.distributed.network import interface_with, meet

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def outside() -> tuple[str, str]:
    """An interface to other machines, and its address."""
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family is socket.AF_INET and not ip_address(one.address).is_loopback:
                return name, one.address
    pytest.skip("no network here")


def test_the_interface_of_an_address(outside: tuple[str, str]) -> None:
    assert interface_with("127.0.0.1") == "lo"
    assert interface_with(outside[1]) == outside[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.1.1"])
def test_processes_on_one_machine_need_no_interface(host: str) -> None:
    environment: dict[str, str] = {}
    assert meet(host, 0, 1, HashStore(), environment) == ""
    assert environment == {}


def test_gloo_and_nccl_use_the_interface_that_leads_to_the_others(
    outside: tuple[str, str],
) -> None:
    name, address = outside
    environment: dict[str, str] = {}
    assert meet(address, 0, 1, HashStore(), environment) == ""
    assert environment == {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}


def test_an_interface_that_the_user_set_is_kept(outside: tuple[str, str]) -> None:
    own = {"GLOO_SOCKET_IFNAME": "a", "NCCL_SOCKET_IFNAME": "^b"}
    environment = dict(own)
    meet(outside[1], 0, 1, HashStore(), environment)
    assert environment == own
