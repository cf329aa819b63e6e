"""The names under which addresses are counted. Every address seen ends under exactly one."""

from __future__ import annotations

FETCHED = "fetched"
REDIRECT = "redirect"  # followed; where it leads is counted as an address of its own
REDIRECT_LOOP = "redirect_loop"
REDIRECT_LIMIT = "redirect_limit"
ALIAS = "alias"  # names as its canonical address one that was stored already
OUT_OF_SCOPE = "out_of_scope"
ROBOTS_DISALLOWED = "robots_disallowed"
ROBOTS_UNAVAILABLE = "robots_unavailable"  # the server failed to say what is allowed
WRONG_TYPE = "wrong_type"
TOO_LARGE = "too_large"
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
BAD_RESPONSE = "bad_response"
BAD_ENCODING = "bad_encoding"  # compressed as nothing here can undo
PRIVATE_ADDRESS = "private_address"  # of this machine or its network, where no seed is
DELAY_TOO_LONG = "delay_too_long"  # the host asks for a longer pause than `max_delay_s`
PAGE_LIMIT = "page_limit"  # known and not visited, because of `max_pages`
TIME_LIMIT = "time_limit"  # the same, because of `max_seconds`

# Of maps, which are counted by themselves.
MAP_READ = "read"
NO_MAP = "no_map"
NO_ADDRESS = "no_address"
MAP_LIMIT = "map_limit"

MEANINGS = {
    FETCHED: "stored as a page",
    REDIRECT: "led elsewhere",
    REDIRECT_LOOP: "led back to itself",
    REDIRECT_LIMIT: "led on too often",
    ALIAS: "another address of a stored page",
    OUT_OF_SCOPE: "outside the crawl",
    ROBOTS_DISALLOWED: "forbidden by robots.txt",
    ROBOTS_UNAVAILABLE: "its robots.txt could not be had",
    WRONG_TYPE: "not a page by its content type",
    TOO_LARGE: "over the size limit",
    TIMEOUT: "took too long",
    UNREACHABLE: "no connection",
    BAD_RESPONSE: "answered something other than HTTP",
    BAD_ENCODING: "compressed in an unknown way",
    PRIVATE_ADDRESS: "leads into a private network",
    DELAY_TOO_LONG: "its host asks for longer pauses than allowed here",
    PAGE_LIMIT: "not visited: page limit",
    TIME_LIMIT: "not visited: time limit",
    MAP_READ: "read",
    NO_MAP: "no addresses in it",
    NO_ADDRESS: "no http or https address",
    MAP_LIMIT: "not read: enough maps, or enough addresses for `max_pages`",
}


def http_error(status: int) -> str:
    """Return the name for a status that is neither success nor a redirect that leads somewhere."""
    return f"http_{status}"


def meaning(outcome: str) -> str:
    """Say what an outcome means, for people."""
    return MEANINGS.get(outcome) or f"answered with status {outcome.removeprefix('http_')}"
