"""The protocol as a Jinja chat template, for other programs that load an exported model.

It gives what `render` gives on ordinary text: transformers, vLLM and llama.cpp then build the same
prompts. Those programs turn a rendered string into ids, so special tokens spelled out by a user
would become real ones; the template breaks the opening `<|` of every spelling in two. (Putting in a
space cannot form a new spelling, as cutting something out could.)

Plain Jinja on purpose: no macros, no namespace, no slices, because the parsers of LM Studio
and llama.cpp know a subset.
"""

from __future__ import annotations

from llmpipe.tokenizer.special import BOS, IM_END, IM_START

CHAT_TEMPLATE = (
    "{{ '" + BOS + "' }}"
    "{% for message in messages %}"
    "{{ '" + IM_START + "' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + '" + IM_END + "' }}"
    "{% else %}"
    "{{ message['content'] | replace('<|', '< |') + '" + IM_END + "' }}"
    "{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + IM_START + "assistant\\n' }}{% endif %}"
)
