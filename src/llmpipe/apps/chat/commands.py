"""What can be typed with a slash in front, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from llmpipe.apps.chat.probabilities import answer_choices, probability_table
from llmpipe.apps.chat.state import Chat, ThinkMode
from llmpipe.apps.chat.terminal import PATH
from llmpipe.apps.chat.token_view import raw_view, token_view
from llmpipe.assistant.render import Message
from llmpipe.assistant.tools import TOOL_NAMES, parse_tool_names
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError, did_you_mean
from llmpipe.inference.sampling import Sampling

Next = Literal["reply", "edit", "quit"]
"""What follows a command, if not the next question: an answer, the last message to be changed, or the end."""

Word = TypeVar("Word", bound=str)

THINK_MODES: tuple[ThinkMode, ...] = get_args(ThinkMode)
N_TOP = 4
"""Tokens that `/probs` shows beside each one."""


@dataclass(frozen=True)
class Command:
    """One command: what it takes, what it does in words, and the function that does it."""

    argument: str
    summary: str
    run: Callable[[Chat, str, Console], Next | None]
    words: tuple[str, ...] = ()
    """Offered after its name; see `Keyboard`."""


def run_command(line: str, chat: Chat, console: Console) -> Next | None:
    """Run a line that begins with a slash.

    Raises:
        UserError: if there is no such command, or its argument is wrong.
    """
    name, _, argument = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "`/help` lists the commands"
        raise UserError(f"unknown command `/{name}`", hint)
    return COMMANDS[name].run(chat, argument.strip(), console)


def _help(chat: Chat, argument: str, console: Console) -> None:
    for name, command in COMMANDS.items():
        console.out(f"  {f'/{name} {command.argument}':<26} {command.summary}")
    console.out(
        "  Enter sends, Alt-Enter (or Esc, Enter) starts a new line; pasted lines stay together."
    )
    console.out("  Ctrl-C stops an answer and keeps what is there; again, or Ctrl-D, leaves.")


def _system(chat: Chat, argument: str, console: Console) -> None:
    if argument:
        chat.system = None if argument == "off" else argument
    console.info(f"system message: {chat.system or 'none'}")


def _set(chat: Chat, argument: str, console: Console) -> None:
    if argument:
        name, _, value = argument.partition(" ")
        chat.sampling = changed(chat.sampling, name, value.strip())
    for name in _SETTINGS:
        value = getattr(chat.sampling, name)
        console.out(f"  {name:<20} {'off' if value is None else value}")


def changed(sampling: Sampling, name: str, value: str) -> Sampling:
    """Return the settings with one of them changed; `off` unsets those that can be unset.

    Raises:
        UserError: if there is no such setting, or the value is not one for it.
    """
    types = {s.name: str(s.type) for s in fields(Sampling) if s.name in _SETTINGS}
    if name not in types:
        hint = did_you_mean(name, types) or f"settings are {', '.join(types)}"
        raise UserError(f"unknown setting `{name}`", hint=hint)
    is_whole = "int" in types[name]
    change: dict[str, Any] = {}
    try:
        if value == "off" and "None" in types[name]:
            change[name] = None
        else:
            change[name] = int(value) if is_whole else float(value)
    except ValueError:
        kind = "a whole number" if is_whole else "a number"
        raise UserError(f"{name} is `{value}` and must be {kind}") from None
    return replace(sampling, **change)


def _regen(chat: Chat, argument: str, console: Console) -> Next:
    del chat.messages[chat.last_user() + 1 :]
    # Another answer needs another seed; at temperature 0 it is the same one again.
    chat.sampling = replace(chat.sampling, seed=chat.sampling.seed + 1)
    if chat.sampling.temperature == 0:
        console.info("temperature is 0, so the answer stays the same: `/set temperature 0.8`")
    return "reply"


def _edit(chat: Chat, argument: str, console: Console) -> Next:
    chat.last_user()  # there must be one
    if not argument:
        return "edit"
    chat.undo()
    chat.messages.append(Message("user", argument))
    return "reply"


def _undo(chat: Chat, argument: str, console: Console) -> None:
    chat.undo()
    console.info(f"{len(chat.messages)} messages are left")


def _clear(chat: Chat, argument: str, console: Console) -> None:
    chat.messages.clear()
    console.info("a new conversation; the system message stays")


def _save(chat: Chat, argument: str, console: Console) -> None:
    chat.save(_path(argument, "/save"))
    console.info(f"saved to {argument}")


def _load(chat: Chat, argument: str, console: Console) -> None:
    chat.load(_path(argument, "/load"))
    console.info(f"{len(chat.messages)} messages from {argument}")


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise UserError(f"{command} needs a file", hint=f"for example `{command} chat.jsonl`")
    return Path(argument).expanduser()


def _tokens(chat: Chat, argument: str, console: Console) -> None:
    console.out(token_view(chat.rendered(), chat.loaded.tokenizer, console.has_colour))


def _raw(chat: Chat, argument: str, console: Console) -> None:
    if argument:
        chat.raw = _one_of(argument, ("on", "off")) == "on"
        console.info(f"control tokens are {'shown' if chat.raw else 'hidden'} in answers")
    else:
        console.out(raw_view(chat.rendered(True), chat.loaded.tokenizer, console.has_colour))


def _probs(chat: Chat, argument: str, console: Console) -> None:
    if argument and not (argument.isascii() and argument.isdigit() and int(argument)):
        raise UserError(f"`{argument}` is not a number of tokens", hint="for example `/probs 10`")
    choices = answer_choices(chat, int(argument or N_TOP))
    console.out(probability_table(choices, chat, console.has_colour))


def _think(chat: Chat, argument: str, console: Console) -> None:
    if argument.isascii() and argument.isdigit() and int(argument):
        chat.max_thought = int(argument)
        chat.think = "show" if chat.think == "off" else chat.think
    elif argument:
        chat.think = think_mode(argument)
    state = {"show": "shown", "hide": "hidden", "off": "not had"}[chat.think]
    bound = "" if chat.max_thought is None else f", up to {chat.max_thought:,} tokens"
    console.info(f"thoughts are {state}{bound}")


def think_mode(word: str) -> ThinkMode:
    """Return the mode of that name; a UserError if there is none."""
    return _one_of(word, THINK_MODES)


def _tools(chat: Chat, argument: str, console: Console) -> None:
    if argument:
        names = tuple(chat.tools) if argument == "all" else parse_tool_names(argument)
        if missing := [name for name in names if name not in chat.tools]:
            raise UserError(
                f"the tool `{missing[0]}` was not opened",
                hint=f"leave, and start with `--tools {','.join([*chat.tools, *missing])}`",
            )
        chat.offered = names
    console.info(f"tools: {', '.join(chat.usable_tools) or 'none'}")
    if closed := [name for name in chat.tools if name not in chat.usable_tools]:
        console.info(f"could be used: {', '.join(closed)}")


def _one_of(word: str, known: Sequence[Word]) -> Word:
    for one in known:
        if word == one:
            return one
    raise UserError(f"`{word}` is not one of {', '.join(known)}")


def _stats(chat: Chat, argument: str, console: Console) -> None:
    n_context = len(chat.rendered().ids)
    console.out(f"  context    {n_context:,} of {chat.loaded.engine.max_len:,} tokens")
    console.out(f"  replies    {chat.n_replies:,} with {chat.n_tokens:,} tokens")
    if chat.last:
        console.out(
            f"  last reply {chat.last.n_tokens:,} tokens, {chat.last.tok_per_s:,.0f} tokens/s, "
            f"first after {chat.last.first_token_s * 1000:,.0f} ms, ended by {chat.last.reason}"
        )


_SETTINGS = tuple(
    setting.name for setting in fields(Sampling) if setting.name not in ("logit_bias", "n_logprobs")
)

COMMANDS: dict[str, Command] = {
    "help": Command("", "list the commands", _help),
    "system": Command("[TEXT|off]", "show, set or remove the system message", _system, ("off",)),
    "set": Command("[NAME VALUE]", "show or change temperature, top_k, seed ...", _set, _SETTINGS),
    "regen": Command("", "answer the last message again, with the next seed", _regen),
    "edit": Command("[TEXT]", "change the last message and have it answered", _edit),
    "undo": Command("", "take back the last message and its answer", _undo),
    "clear": Command("", "begin a new conversation", _clear),
    "save": Command("FILE", "write the conversation as a line of JSON", _save, (PATH,)),
    "load": Command("FILE", "go on with a saved conversation", _load, (PATH,)),
    "tokens": Command("", "show the ids of the conversation, and which are trained", _tokens),
    "probs": Command("[N]", "show how likely each token of the last answer was", _probs),
    "raw": Command(
        "[on|off]", "show what the model reads; control tokens in answers", _raw, ("on", "off")
    ),
    "think": Command(
        "[show|hide|off|N]", "show thoughts or not, bound their tokens", _think, THINK_MODES
    ),
    "tools": Command(
        "[NAMES|all|none]",
        "show or choose what may be called",
        _tools,
        (*TOOL_NAMES, "all", "none"),
    ),
    "stats": Command("", "show context used and speed", _stats),
    "quit": Command("", "leave", lambda *_: "quit"),
}
