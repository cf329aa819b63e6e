from __future__ import annotations

import random

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import Message, PythonCall, SearchCall, Text, ToolOutput
from llmpipe.assistant.tool_list import called
from llmpipe.stages.sft.tools_told import WITHOUT, tell_tools

SUM = ask("1+1?", (PythonCall("1+1"), ToolOutput("2"), Text("2.")), "arithmetic")
FIND = ask("What is X?", (SearchCall("X"), ToolOutput("X is Y"), Text("Y.")), "lookups")
TALK = ask("Hi", "Hello!", "smalltalk")


def listed(conversation: Conversation) -> list[str]:
    line = conversation.messages[0].text
    names = line.removeprefix("Tools: ").removesuffix(".")
    return [] if names == "none" else names.split(", ")


def test_lists_are_obeyed() -> None:
    """In every conversation with a list, what is called is listed, and what is not is refused."""
    told = tell_tools([SUM, FIND, TALK] * 100, 1.0, random.Random(1))
    n_refused = 0
    for before, after in zip([SUM, FIND, TALK] * 100, told, strict=True):
        calls = {call[0] for m in after.messages for p in m.parts if (call := called(p))}
        wanted = {call[0] for m in before.messages for p in m.parts if (call := called(p))}
        assert calls <= set(listed(after))
        if wanted - calls:
            n_refused += 1
            [missing] = wanted
            assert missing not in listed(after)
            assert after.messages[-1].text in WITHOUT[missing]
        else:
            assert after.messages[1:] == before.messages
    assert 70 < n_refused < 130  # half of the 200 that call something


def test_the_others_stay_as_they_are() -> None:
    told = tell_tools([SUM] * 400, 0.25, random.Random(1))
    assert 70 < sum(c.messages[0].role == "system" for c in told) < 130
    assert tell_tools([SUM, TALK], 0.0, random.Random(1)) == [SUM, TALK]


def test_a_system_message_keeps_its_words() -> None:
    own = Conversation((Message("system", "Be kind."), *TALK.messages), "x")
    [told] = tell_tools([own], 1.0, random.Random(1))
    assert told.messages[0].text.startswith("Be kind.\nTools: ")
    assert [m.role for m in told.messages] == ["system", "user", "assistant"]
