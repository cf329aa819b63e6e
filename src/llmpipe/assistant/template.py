r"""The protocol as a Jinja chat template, for other programs that load an exported model.

It gives what `render` gives on ordinary text: transformers, vLLM and llama.cpp then build the same
prompts. Those programs turn a rendered string into ids, so special tokens spelled out by a user
would become real ones; the template breaks the opening `<|` of every spelling in two. (Putting in a
space cannot form a new spelling, as cutting something out could.)

Thoughts are no part of a message's `content` there, so none are carried into later turns.

Plain Jinja on purpose: no macros, no namespace, no slices, because the parsers of LM Studio
and llama.cpp know a subset.
"""

from __future__ import annotations

from llmpipe.assistant.frames import Frame


def chat_template(frame: Frame, system: str | None = None) -> str:
    """Write the template of a frame; `system` is the system message of conversations that have none."""
    before = f"{frame.role_end or ''}{frame.gap}"
    trim = " | trim" if frame.is_trimmed else ""
    default = ""
    if system is not None:
        words = _quote(f"{frame.start}system{before}{system}{frame.end}{frame.after}")
        default = f"{{% if messages[0]['role'] != 'system' %}}{{{{ {words} }}}}{{% endif %}}"
    opened = _quote(f"{frame.start}assistant{before}")
    return (
        (f"{{{{ {_quote(frame.front)} }}}}" if frame.front else "")
        + default
        + "{% for message in messages %}"
        + f"{{{{ {_quote(frame.start)} + message['role'] + {_quote(before)} }}}}"
        + "{% if message['role'] == 'assistant' %}"
        + f"{{{{ message['content']{trim} + {_quote(frame.end)} }}}}"
        + "{% else %}"
        + f"{{{{ message['content']{trim} | replace('<|', '< |') + {_quote(frame.end)} }}}}"
        + "{% endif %}"
        + (f"{{{{ {_quote(frame.after)} }}}}" if frame.after else "")
        + "{% endfor %}"
        + f"{{% if add_generation_prompt %}}{{{{ {opened} }}}}{{% endif %}}"
    )


def _quote(text: str) -> str:
    """Write a text as a Jinja string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
