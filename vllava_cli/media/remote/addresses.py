"""Which kind of place an IP address leads to, also where it is wrapped in another one. Pure.

Private ranges are as good as public ones: clusters live there.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Literal

from vllava_cli.media.remote.policy import LINK_LOCAL, LOOPBACK, Allowed

Place = Literal["loopback", "link-local", "nowhere"]

_METADATA = frozenset(
    map(
        ip_address,
        (
            *("fd00:ec2::254", "fd20:ce::254"),  # AWS and Google over IPv6
            *("168.63.129.16", "100.100.100.200", "192.0.0.192"),  # Azure, Alibaba, Oracle
        ),
    )
)
"""Where clouds hand out credentials, beside 169.254.0.0/16."""

_WRAPPERS = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""IPv6 with an IPv4 address at its end: NAT64, NAT64 of a site, IPv4-compatible."""


def place_of(address: str) -> Place | None:
    """None for an address of the internet or of a private network; "nowhere" also for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "nowhere"
    return _place(parsed)


def is_reachable(address: str, allowed: Allowed) -> bool:
    """Whether the user agreed to it."""
    match place_of(address):
        case None:
            return True
        case "loopback":
            return allowed.has_loopback
        case "link-local":
            return allowed.has_link_local
        case "nowhere":
            return False


def remedy(address: str) -> str:
    """For the end of a sentence about an address that is not reachable."""
    place = place_of(address)
    return f"add --allow {place}" if place in (LOOPBACK, LINK_LOCAL) else "name another host"


def _place(address: IPv4Address | IPv6Address) -> Place | None:
    if address.is_loopback or address.is_unspecified:  # 0.0.0.0 connects to this machine
        return "loopback"
    if address.is_link_local or address in _METADATA:
        return "link-local"
    if isinstance(address, IPv6Address) and (inner := _inside(address)):
        return _place(inner)
    is_nowhere = address.is_multicast or address.is_reserved or (address.version == 4 and address.packed[0] == 0)
    return "nowhere" if is_nowhere else None


def _inside(address: IPv6Address) -> IPv4Address | None:
    if any(address in wrapper for wrapper in _WRAPPERS):
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
