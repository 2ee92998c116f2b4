"""Decides which network addresses an untrusted URL may reach: public ones, and networks that the operator lists."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

# IANA's special-purpose registries, written out because `ipaddress.is_global` differs between Python releases.
# https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry (2025)
_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; on Linux, 0.0.0.0 reaches the local machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of one cloud
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata services of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks of network devices
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")  # all of global unicast
_SPECIAL_IPV6 = (
    IPv6Network("2001::/23"),  # Teredo, ORCHID, benchmarks
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("3fff::/20"),  # documentation
)
_6TO4 = IPv6Network("2002::/16")  # bits 16 to 48 are an IPv4 address
_NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A numeric address to connect to, from getaddrinfo, so that the name is looked up only once."""

    family: socket.AddressFamily
    socket_address: tuple[str, int] | tuple[str, int, int, int]
    address: Address


def resolve(host: str, port: int) -> list[Endpoint]:
    """Return all addresses of a host, in the order that the system prefers.

    Raises:
        OSError: If the name does not resolve.
    """
    endpoints = []
    for family, _, _, _, socket_address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if family in (socket.AF_INET, socket.AF_INET6):
            address = ip_address(str(socket_address[0]))
            endpoints.append(Endpoint(family=family, socket_address=socket_address, address=address))  # type: ignore[arg-type]
    return endpoints


def is_allowed(address: Address, private_networks: Sequence[str]) -> bool:
    """Whether an address is public, or lies in one of the listed networks."""
    inner = _extract_ipv4(address)
    networks = [ip_network(network) for network in private_networks]
    return _is_public(inner) or any(inner in network or address in network for network in networks)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _SPECIAL_IPV6)


def _extract_ipv4(address: Address) -> Address:
    """Return the IPv4 address to which an IPv6 address leads, or the address itself if it leads to none."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _6TO4:
            return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
