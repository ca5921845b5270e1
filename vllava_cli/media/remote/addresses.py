"""Which addresses of a network are kept out: those of the machine itself and of its cloud's services. Pure."""

from __future__ import annotations

import ipaddress

from vllava_cli.media.remote.allow import LINK_LOCAL, LOOPBACK, Allowed

_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Addresses of clouds' services that are not link-local ones."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def refusal(text: str, allowed: Allowed) -> str | None:
    """Why this address isn't connected to, with what would allow it; None where it may be. Private ones may be."""
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_loopback or address.is_unspecified:
        return None if allowed.has_loopback else f"{address} is this machine itself, which --allow {LOOPBACK} permits"
    if address.is_link_local or address in _METADATA:
        return None if allowed.has_link_local else f"{address} is link-local, which --allow {LINK_LOCAL} permits"
    if address.is_multicast or (address.version == 4 and address.is_reserved):
        return f"{address} is no address of a server"
    return None


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for: ::ffff:127.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::"""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
