"""Which tools an answer may use, and who runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmpipe.apps.serve.choice import TOOL_ARGUMENTS
from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.parse import field


@dataclass(frozen=True)
class Offered:
    """Names of the tools of one request.

    Attributes:
        by_client: a call to one of these ends the answer, and the client carries it out.
        by_server: these run here, within the answer.
        is_explicit: whether the request has said which tools there are.
    """

    by_client: frozenset[str] = frozenset()
    by_server: frozenset[str] = frozenset()
    is_explicit: bool = False

    @property
    def all(self) -> frozenset[str]:
        """All that may be called."""
        return self.by_client | self.by_server


def offered_tools(body: Mapping[str, Any], own: Sequence[str]) -> Offered:
    """Return what a request offers.

    Without `tools` these are all of the server's own. In the list, `{"type": "function", …}` is a tool
    of the client, and `{"type": "python"}` one of the server. An empty list is none.

    Args:
        body: of the request.
        own: names of the server's tools.

    Raises:
        ApiError: if a tool is not one that the model was trained to call, or does not run here.
    """
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        message = "`tool_choice` can be `auto` or `none`"
        raise ApiError(400, message, "unsupported_value", "tool_choice")
    tools = field(body, "tools", list, None)
    by_client, by_server = set(), set()
    for tool in tools or ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind in TOOL_ARGUMENTS:
            if kind not in own:
                message = f"this server runs no tool `{kind}`; start it with `--tools {kind}`"
                raise ApiError(400, message, "unsupported_value", "tools")
            by_server.add(kind)
        else:
            by_client.add(_function_name(tool))
    if tools is None:
        by_server = set(own)
    if by_client & by_server:
        raise ApiError(400, "a tool is offered twice", "unsupported_value", "tools")
    if choice == "none":
        return Offered(is_explicit=True)
    return Offered(frozenset(by_client), frozenset(by_server), is_explicit=tools is not None)


def _function_name(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(name, str) and name in TOOL_ARGUMENTS:
        return name
    known = ", ".join(f"{known}({key})" for known, key in TOOL_ARGUMENTS.items())
    message = f"this model was trained to call {known} and nothing else"
    raise ApiError(400, message, "unsupported_value", "tools")
