"""/tokenize, /detokenize and /tokenizer_info, in vLLM's shape."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.chat import read_prompt
from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.logprobs import token_strings
from llmpipe.apps.serve.parse import field, token_ids
from llmpipe.apps.serve.service import Service
from llmpipe.assistant.frames import can_chat, frame_for
from llmpipe.assistant.template import chat_template


async def tokenize(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return the ids of a text, in which special tokens are ordinary characters, or of a conversation.

    `mask` says which tokens of a conversation a model is trained to write.
    """
    service.check_model(body.get("model"))
    tokenizer = service.tokenizer
    messages, text = field(body, "messages", list, None), field(body, "prompt", str, None)
    answer: dict[str, Any] = {}
    if messages is not None:
        rendered, _ = read_prompt(body, tokenizer, service.tool_names)
        tokens, answer["mask"] = rendered.ids, rendered.mask
    elif text is not None:
        tokens = tokenizer.encode(text)
        if field(body, "add_special_tokens", bool, True):
            tokens = [tokenizer.bos_id, *tokens]
    else:
        raise ApiError(400, "`prompt` or `messages` is missing", param="prompt")
    room = service.worker.engine.max_len
    answer |= {"tokens": tokens, "count": len(tokens), "max_model_len": room}
    if field(body, "return_token_strs", bool, False):
        answer["token_strs"] = token_strings(tokens, tokenizer)
    return json_response(answer)


async def tokenizer_info(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return the names of control tokens and the chat template: lm-eval asks for them."""
    tokenizer = service.tokenizer
    names = {id: name for name, id in tokenizer.special.items()}
    answer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokenizer.bos_id],
        "eos_token": names.get(service.stop_ids[0]) if service.stop_ids else None,
        "chat_template": chat_template(frame_for(tokenizer)) if can_chat(tokenizer) else None,
    }
    return json_response(answer)


async def detokenize(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return the text of ids."""
    service.check_model(body.get("model"))
    ids = token_ids(body, "tokens", service.tokenizer.vocab_size)
    return json_response({"prompt": service.tokenizer.decode(ids)})
