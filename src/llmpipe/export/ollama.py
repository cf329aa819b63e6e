"""Ollama's Modelfile: which file, how a conversation is written out, where an answer ends.

An import without template and stops is the usual reason for models that babble on in Ollama. The
template is in Go's language; the document mark is left out, because llama.cpp puts it in front itself.

Source: ollama/ollama docs/modelfile.md (instructions and parameters) and docs/template.md (example ChatML).
"""

from __future__ import annotations

from llmpipe.export.hugging_face import Source
from llmpipe.tokenizer.special import BOS, IM_END, IM_START

CHAT_TEMPLATE = (
    "{{- range .Messages }}" + IM_START + "{{ .Role }}\n{{ .Content }}" + IM_END + "\n"
    "{{ end }}" + IM_START + "assistant\n"
)
COMPLETION_TEMPLATE = "{{ .Prompt }}"


def modelfile(source: Source, gguf_name: str) -> str:
    """Return the text of a Modelfile.

    Args:
        source: the model; a chat model of ours has our control tokens and a chat template.
        gguf_name: of the file beside the Modelfile.
    """
    stops = [name for name in source.stops if name != BOS]
    template = COMPLETION_TEMPLATE
    if is_chat(source):
        template = CHAT_TEMPLATE
        stops += [name for name in (IM_END, IM_START) if name not in stops]
    lines = [
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{template}"""',
        f"PARAMETER num_ctx {source.model.config.max_seq_len}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    return "\n".join(lines) + "\n"


def is_chat(source: Source) -> bool:
    """Tell whether the model speaks our chat protocol."""
    has_tokens = IM_START in source.tokenizer.special and IM_END in source.tokenizer.special
    return has_tokens and source.chat_template is not None
