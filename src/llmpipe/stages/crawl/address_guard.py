"""Which machines a crawl may talk to: all of the public network, and of private ones those that the seeds are on.

A page anywhere can send a crawler to `http://169.254.169.254/`, or to a name that leads there, and so read through it what only
its own network may see. Looking at names stops nothing; what counts is the address that a connection really has.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from functools import cached_property
from urllib.parse import urlsplit


class AddressGuard:
    """Says whether a request may be sent.

    Args:
        seeds: canonical addresses. Whoever starts at a private address means the private network.
    """

    def __init__(self, seeds: Sequence[str]) -> None:
        self._hosts = {urlsplit(seed).hostname or "" for seed in seeds}

    def allows(self, url: str, ip: str) -> bool:
        """Tell whether an address that leads to `ip` may be asked."""
        return is_public(ip) or urlsplit(url).hostname in self._hosts or self._starts_inside

    @cached_property
    def _starts_inside(self) -> bool:
        """Whether a seed is on a private network; asked for only when something leads into one."""
        return any(not is_public(ip) for host in self._hosts for ip in _addresses(host))


def is_public(ip: str) -> bool:
    """Tell whether an IP address belongs to the public network, through the spellings of IPv4 addresses as IPv6 ones."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: RFC 6052
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inside or address
    return address.is_global and not address.is_multicast


def _addresses(host: str) -> list[str]:
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1"]  # RFC 6761, section 6.3, whatever the name service says
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return []
