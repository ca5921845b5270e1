"""Where an address leads, also one that is wrapped in another."""

from __future__ import annotations

import pytest

from vllava_cli.media.remote.addresses import Place, is_reachable, place_of, remedy
from vllava_cli.media.remote.policy import Allowed


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:0.0.0.0", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("169.254.169.254", "link-local"),
        ("169.254.0.1", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2001:0:4136:e378:8000:63bf:5601:5601", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("febf::1", "link-local"),
        ("fd00:ec2::254", "link-local"),
        ("fd20:ce::254", "link-local"),
        ("168.63.129.16", "link-local"),
        ("100.100.100.200", "link-local"),
        ("192.0.0.192", "link-local"),
        ("0.1.2.3", "nowhere"),
        ("224.0.0.1", "nowhere"),
        ("240.0.0.1", "nowhere"),
        ("255.255.255.255", "nowhere"),
        ("ff02::1", "nowhere"),
        ("::ffff:224.0.0.1", "nowhere"),
        ("4000::1", "nowhere"),
        ("localhost", "nowhere"),
        ("127.1", "nowhere"),
        ("", "nowhere"),
        ("10.1.2.3", None),
        ("172.16.0.1", None),
        ("192.168.0.1", None),
        ("100.64.0.1", None),
        ("93.184.216.34", None),
        ("fd12:3456::1", None),
        ("2606:2800:220:1::1", None),
        ("::ffff:10.0.0.1", None),
        ("64:ff9b::5db8:d822", None),
    ],
)
def test_an_address_leads_to_a_place(address: str, place: Place | None) -> None:
    assert place_of(address) == place


@pytest.mark.parametrize(
    ("allowed", "reachable"),
    [
        (Allowed(), ["10.0.0.1"]),
        (Allowed(has_loopback=True), ["127.0.0.1", "10.0.0.1"]),
        (Allowed(has_link_local=True), ["169.254.169.254", "10.0.0.1"]),
    ],
)
def test_each_place_has_to_be_allowed(allowed: Allowed, reachable: list[str]) -> None:
    addresses = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "10.0.0.1"]
    assert [address for address in addresses if is_reachable(address, allowed)] == reachable


def test_the_remedy_names_the_word_to_allow() -> None:
    remedies = [remedy(address) for address in ("::1", "169.254.169.254", "224.0.0.1")]
    assert remedies == ["add --allow loopback", "add --allow link-local", "name another host"]
