"""Which addresses an untrusted URL may reach."""

from ipaddress import ip_address

import pytest

from ingest.source.addresses import is_allowed

NAT64 = "64:ff9b::"


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"),
        *("::ffff:1.1.1.1", f"{NAT64}1.1.1.1", "2002:101:101::1"),
    ],
)
def test_allows_public_addresses(address: str) -> None:
    assert is_allowed(ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.5", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
        *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:10.0.0.5", "::ffff:0:10.0.0.5", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *("fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001::1", "2001:db8::1", "3fff::1", "5f00::1"),
        *(f"{NAT64}10.0.0.5", f"{NAT64}169.254.169.254", "64:ff9b:1::a00:5", "2002:a00:5::1", "2002:7f00:1::1"),
    ],
)
def test_refuses_addresses_that_are_not_public(address: str) -> None:
    assert not is_allowed(ip_address(address), ())


@pytest.mark.parametrize(
    ("address", "network", "expected"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        (f"{NAT64}10.1.2.3", "10.1.0.0/16", True),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "10.0.0.0/8", False),
    ],
)
def test_allows_listed_private_networks_and_no_others(address: str, network: str, expected: bool) -> None:
    assert is_allowed(ip_address(address), (network,)) is expected
