from __future__ import annotations

import pytest

from llmpipe.stages.crawl import address_guard
from llmpipe.stages.crawl.address_guard import AddressGuard, is_public


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.9.9", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    ],
)  # fmt: skip
def test_private_addresses(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])  # fmt: skip
def test_public_addresses(ip: str) -> None:
    assert is_public(ip)


def test_a_public_crawl_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def addresses(host: str) -> list[str]:
        asked.append(host)
        return ["93.184.216.34"]

    monkeypatch.setattr(address_guard, "_addresses", addresses)
    guard = AddressGuard(["http://public.example/"])
    assert guard.allows("http://other.example/", "8.8.8.8")
    assert asked == []
    assert not guard.allows("http://rebound.example/", "127.0.0.1")
    assert not guard.allows("http://10.0.0.1/", "10.0.0.1")
    assert asked == ["public.example"]  # once
    assert guard.allows("http://public.example/x", "10.0.0.1")  # the one who crawls named it


@pytest.mark.parametrize(
    "seed", ["http://127.0.0.1:8000/", "http://[::1]/", "http://localhost/", "http://docs.localhost/"]
)  # fmt: skip
def test_a_crawl_that_begins_inside_may_go_on_inside(seed: str) -> None:
    guard = AddressGuard(["http://192.0.2.1/", seed])
    assert guard.allows("http://127.0.0.1:9000/", "127.0.0.1")
