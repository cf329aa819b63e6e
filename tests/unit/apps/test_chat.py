"""The chat: one answer for a pipe, commands, limits of the context, and the keyboard."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmpipe.apps.chat import once, session
from llmpipe.apps.chat.commands import COMMANDS, changed, run_command
from llmpipe.apps.chat.probabilities import answer_choices
from llmpipe.apps.chat.reply_printer import ReplyPrinter, print_reply
from llmpipe.apps.chat.session import ToolOptions, open_chat_tools, run_chat, status
from llmpipe.apps.chat.state import Chat
from llmpipe.apps.chat.terminal import CommandCompleter, Interrupts, Keyboard
from llmpipe.apps.load import load
from llmpipe.assistant.conversation import Conversation, messages_from_json
from llmpipe.assistant.events import Done, Event, TextDelta, ThinkDelta, ToolCall, ToolResult
from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.tools.policy import Kernel
from llmpipe.core.artifact import SCHEMA
from llmpipe.core.errors import InputError, UserError
from llmpipe.inference.engine import Token
from llmpipe.inference.sampling import Sampling

SAMPLING = Sampling(temperature=0.0, max_tokens=5)


@pytest.fixture
def chat(model_folder: Path) -> Chat:
    return Chat(load(model_folder, "cpu"), {}, SAMPLING)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make every chat reply with the given events, after feeding the ids into the reply."""

    def use(ids: list[int], *events: Event | Callable[[], None]) -> None:
        def reply(self: Chat, reply: Reply) -> Generator[Event, None, None]:
            for id in ids:
                reply.push(Token(0, id), 0)
            for event in events:
                if callable(event):
                    event()
                    continue
                if isinstance(event, Done):
                    self.last = event
                yield event

        monkeypatch.setattr(Chat, "reply", reply)

    return use


class FakeTool:
    def run(self, text: str) -> str:
        return text


DONE = Done("stop", 3, 10.0, 0.1)


# -- one answer ------------------------------------------------------------------------------------


def test_prompt_prints_the_answer_alone_on_stdout(
    model_folder: Path, screen: Any, writes: Any
) -> None:
    writes(
        [],
        TextDelta("It is "),
        ToolCall("python", "1"),
        ToolResult("python", "1"),
        TextDelta("1."),
        DONE,
    )
    run_chat(model_folder, prompt="1?", sampling=SAMPLING, console=screen.console)
    assert screen.stdout.getvalue() == "It is 1.\n"
    assert screen.stderr.getvalue() == "the answer is empty\n"  # none of it went into the reply


def test_without_a_terminal_the_message_comes_from_stdin(
    model_folder: Path, screen: Any, monkeypatch: pytest.MonkeyPatch, writes: Any
) -> None:
    asked: list[str] = []
    writes([], TextDelta("yes"), DONE)
    monkeypatch.setattr("sys.stdin", io.StringIO("line one\nline two\n"))
    monkeypatch.setattr(
        once, "Message", lambda role, text: asked.append(text) or Message(role, text)
    )
    run_chat(model_folder, sampling=SAMPLING, console=screen.console)
    assert asked == ["line one\nline two"]
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    with pytest.raises(UserError, match="no message"):
        run_chat(model_folder, sampling=SAMPLING, console=screen.console)


def test_json_holds_answer_tools_and_ids(model_folder: Path, json_screen: Any, writes: Any) -> None:
    special = load(model_folder).tokenizer.special
    ids = [special["<|python_start|>"], *b"1+1", special["<|python_end|>"], *b"Two."]
    writes(ids, DONE)
    console = json_screen.console
    run_chat(model_folder, prompt="1+1?", sampling=SAMPLING, show_tokens=True, console=console)
    document = json.loads(json_screen.stdout.getvalue())
    assert document["answer"] == "Two."
    assert document["tools"] == [{"tool": "python", "input": "1+1"}]
    assert (document["reason"], document["n_tokens"]) == ("stop", 3)
    assert len(document["ids"]) == len(document["mask"]) > 20


def test_real_model_answers_the_same_twice(model_folder: Path, screen: Any) -> None:
    for _ in range(2):
        run_chat(
            model_folder, prompt="hello", system="be", sampling=SAMPLING, console=screen.console
        )
    text = screen.stdout.getvalue()
    assert text[: len(text) // 2] == text[len(text) // 2 :]


# -- replies and their limits ----------------------------------------------------------------------


def test_reply_is_kept_and_tools_are_shown(chat: Chat, screen: Any, writes: Any) -> None:
    writes(
        [*b"Hi"], TextDelta("Hi\x1b"), ToolCall("python", "2*3"), ToolResult("python", "6"), DONE
    )
    chat.messages.append(Message("user", "hello"))
    assert print_reply(chat, screen.console)
    assert screen.stdout.getvalue() == "Hi\ufffd\n  [python] 2*3\n  [result] 6\n\n"
    assert chat.messages[-1] == Message("assistant", (Text("Hi"),))


def test_ctrl_c_keeps_what_was_written(chat: Chat, screen: Any, writes: Any) -> None:
    writes(
        [*b"Part"],
        TextDelta("Part"),
        lambda: os.kill(os.getpid(), signal.SIGINT),
        TextDelta("."),
        TextDelta("never"),
    )
    before = signal.getsignal(signal.SIGINT)
    chat.messages.append(Message("user", "hello"))
    assert not print_reply(chat, screen.console)
    assert screen.stdout.getvalue() == "Part. [stopped]\n"
    assert chat.messages[-1].text == "Part"
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_raises() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_oldest_turns_go_when_the_context_is_full_and_the_system_message_stays(
    chat: Chat, screen: Any
) -> None:
    chat.system = "stay"
    for i in range(6):
        chat.messages += [Message("user", f"question {i}"), Message("assistant", f"answer {i}")]
    chat.messages.append(Message("user", "last"))
    assert len(chat.rendered(add_generation_prompt=True).ids) > chat.loaded.engine.max_len
    print_reply(chat, screen.console)
    assert "oldest messages are forgotten" in screen.stderr.getvalue()
    kept = chat.all_messages()
    assert kept[0].text == "stay" and kept[1].role == "user" and kept[-2].text == "last"
    assert kept[-1].role == "assistant"
    assert len(chat.rendered().ids) <= chat.loaded.engine.max_len + 2  # the end and its newline


def test_message_longer_than_the_context_is_refused(chat: Chat, screen: Any) -> None:
    chat.messages.append(Message("user", "x" * 500))
    with pytest.raises(UserError, match="context holds 128"):
        print_reply(chat, screen.console)


def test_cut_answer_is_said(chat: Chat, screen: Any) -> None:
    chat.messages.append(Message("user", "hello"))
    print_reply(chat, screen.console)
    assert "cut at max_tokens" in screen.stderr.getvalue()


# -- commands --------------------------------------------------------------------------------------


def test_every_command_runs_on_an_empty_or_a_full_chat(
    chat: Chat, screen: Any, tmp_path: Path
) -> None:
    file = str(tmp_path / "chat.jsonl")
    chat.messages = [Message("user", "hello"), Message("assistant", "there")]
    lines = [f"/{name} {file if name in ('save', 'load') else ''}" for name in COMMANDS]
    results = {}
    for line in lines:
        if not chat.messages or chat.messages[-1].role != "assistant":
            chat.messages = [Message("user", "hello"), Message("assistant", "there")]
        results[line.split()[0]] = run_command(line, chat, screen.console)
    assert results.pop("/quit") == "quit"
    assert results.pop("/edit") == "edit"
    assert results.pop("/regen") == "reply"
    assert set(results.values()) == {None}


def test_help_lists_every_command(chat: Chat, screen: Any) -> None:
    run_command("/help", chat, screen.console)
    assert all(f"/{name}" in screen.stdout.getvalue() for name in COMMANDS)


def test_unknown_command_gets_a_suggestion(chat: Chat, screen: Any) -> None:
    with pytest.raises(UserError, match="unknown command `/regn`") as caught:
        run_command("/regn", chat, screen.console)
    assert caught.value.hint == "did you mean `regen`?"


def test_settings_are_changed_and_checked() -> None:
    base = Sampling()
    assert changed(base, "temperature", "0.5").temperature == 0.5
    assert changed(base, "top_k", "40").top_k == 40
    assert changed(changed(base, "top_p", "0.9"), "top_p", "off") == base
    for name, value, message in (
        ("temprature", "1", "unknown setting `temprature`"),
        ("top_k", "1.5", "top_k is `1.5` and must be a whole number"),
        ("top_p", "7", "must be in"),
        ("temperature", "off", "must be a number"),
        ("seed", "", "must be a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            changed(base, name, value)


def test_undo_and_regen_take_back_the_right_messages(chat: Chat, screen: Any) -> None:
    first = [Message("user", "a"), Message("assistant", "b")]
    chat.messages = [*first, Message("user", "c"), Message("assistant", "d")]
    seed = chat.sampling.seed
    run_command("/regen", chat, screen.console)
    assert [message.text for message in chat.messages] == ["a", "b", "c"]
    assert chat.sampling.seed == seed + 1
    run_command("/undo", chat, screen.console)
    assert chat.messages == first
    run_command("/undo", chat, screen.console)
    with pytest.raises(UserError, match="nothing has been said"):
        run_command("/undo", chat, screen.console)


def test_edit_changes_the_last_question_and_forgets_its_answer(chat: Chat, screen: Any) -> None:
    with pytest.raises(UserError, match="nothing has been said"):
        run_command("/edit", chat, screen.console)
    chat.messages = [Message("user", "a"), Message("assistant", "b")]
    assert run_command("/edit", chat, screen.console) == "edit"
    assert run_command("/edit c d", chat, screen.console) == "reply"
    assert chat.messages == [Message("user", "c d")]


def test_think_shows_hides_bounds_and_stops_thoughts(chat: Chat, screen: Any) -> None:
    for argument, state in (
        ("hide", ("hide", None)),
        ("64", ("hide", 64)),
        ("off", ("off", 64)),
        ("8", ("show", 8)),
    ):
        run_command(f"/think {argument}", chat, screen.console)
        assert (chat.think, chat.max_thought) == state
    for wrong in ("0", "of", "٣"):
        with pytest.raises(UserError, match="not one of show, hide, off"):
            run_command(f"/think {wrong}", chat, screen.console)


def test_an_answer_that_is_not_to_be_trained_still_has_probabilities(
    chat: Chat, screen: Any, tmp_path: Path
) -> None:
    answer = Message("assistant", "Yes.", is_trained=False)
    saved = Conversation((Message("user", "Hi"), answer), "test").to_json()
    (tmp_path / "chat.jsonl").write_text(saved)
    assert messages_from_json(json.loads(saved))[1] == answer
    run_command(f"/load {tmp_path / 'chat.jsonl'}", chat, screen.console)
    run_command("/probs", chat, screen.console)
    n = len(chat.loaded.tokenizer.encode("Yes.")) + 1  # and the end of the turn
    assert f"{n} tokens, each with probability" in screen.stdout.getvalue()


def test_tools_can_be_taken_away_and_given_back(chat: Chat, screen: Any) -> None:
    def ruled_out() -> Any:
        rules = chat.new_reply().rules
        return rules.applied_to(chat.sampling, chat.loaded.tokenizer).logit_bias

    chat.tools = {"python": FakeTool(), "search": FakeTool()}
    assert list(chat.usable_tools) == ["python", "search"]
    assert "Tools:" not in chat.loaded.tokenizer.decode(chat.rendered().ids)
    run_command("/tools search", chat, screen.console)
    assert list(chat.usable_tools) == ["search"]
    assert "Tools: search." in chat.loaded.tokenizer.decode(chat.rendered().ids)
    begin = chat.loaded.tokenizer.special["<|python_start|>"]
    assert ruled_out() == ((begin, float("-inf")),)  # not even begun
    run_command("/tools none", chat, screen.console)
    assert "Tools: none." in chat.loaded.tokenizer.decode(chat.rendered().ids)
    run_command("/tools all", chat, screen.console)
    assert list(chat.usable_tools) == ["python", "search"] and not ruled_out()
    with pytest.raises(UserError, match="unknown tool `pyton`"):
        run_command("/tools pyton", chat, screen.console)
    chat.tools = {}
    with pytest.raises(UserError, match="was not opened"):
        run_command("/tools python", chat, screen.console)


def test_probabilities_are_those_of_the_model(chat: Chat, screen: Any) -> None:
    """Compared with one plain forward pass over the conversation."""
    with pytest.raises(UserError, match="no answer yet"):
        run_command("/probs", chat, screen.console)
    chat.sampling = Sampling(temperature=0.7, top_k=2, seed=3)  # changes nothing here
    parts = (PythonCall("1"), ToolOutput("2"), Text("ok"))
    chat.messages = [Message("user", "hi"), Message("assistant", parts)]
    choices = answer_choices(chat, 3)
    ids, special = chat.rendered().ids, chat.loaded.tokenizer.special
    begin = len(ids) - 1 - len(choices)  # a newline follows the stop token
    assert [logprob.id for logprob, _ in choices] == ids[begin:-1]
    assert ids[-2] == special["<|im_end|>"] and ids[begin] == special["<|python_start|>"]
    assert [is_chosen for _, is_chosen in choices] == [True] * 3 + [False] * 3 + [True] * 3
    with torch.inference_mode():
        expected = chat.loaded.engine.model(torch.tensor([ids]))[0].log_softmax(-1)
    for i, (logprob, _) in enumerate(choices, start=begin):
        assert logprob.logprob == pytest.approx(float(expected[i - 1, ids[i]]), abs=1e-4)
        assert logprob.top[0][1] == pytest.approx(float(expected[i - 1].max()), abs=1e-4)
    run_command("/probs 2", chat, screen.console)
    lines = screen.stdout.getvalue().splitlines()
    assert len(lines) == len(choices) + 1 and sum("put in by a tool" in line for line in lines) == 3
    assert lines[-1].startswith("6 tokens, each with probability 0.") or "%" in lines[-1]
    assert chat.loaded.engine.n_free_slots == 1
    with pytest.raises(UserError, match="not a number"):
        run_command("/probs many", chat, screen.console)


def test_raw_shows_the_whole_prompt_token_by_token(chat: Chat, screen: Any) -> None:
    chat.messages = [Message("user", "é"), Message("assistant", "ok")]
    run_command("/raw", chat, screen.console)
    assert screen.stdout.getvalue().replace("|u|s|e|r|", "|user|") == (
        "<|bos|>|<|im_start|>|user|⏎\n||é|<|im_end|>|⏎\n|<|im_start|>|a|s|s|i|s|t|a|n|t|⏎\n|o|k|<|im_end|>|⏎\n"
        "|<|im_start|>|a|s|s|i|s|t|a|n|t|⏎\n\n37 tokens\n"
    )
    run_command("/raw on", chat, screen.console)
    assert chat.raw


def test_saved_chat_comes_back_whole(chat: Chat, screen: Any, tmp_path: Path) -> None:
    parts = (PythonCall("37+45"), ToolOutput("82"), Text("82 <|im_end|> 🙂"))
    chat.system = "Be kind."
    chat.messages = [Message("user", "37+45?"), Message("assistant", parts)]
    saved = chat.rendered()
    run_command(f"/save {tmp_path / 'a chat.jsonl'}", chat, screen.console)
    other = Chat(chat.loaded, {}, SAMPLING)
    run_command(f"/load {tmp_path / 'a chat.jsonl'}", other, screen.console)
    assert other.rendered() == saved
    assert other.system == "Be kind."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "gpt", "content": ""}]}',
        '{"messages": [{"role": "user", "content": 3}]}',
    ],
)
def test_file_that_is_no_conversation_changes_nothing(
    chat: Chat, tmp_path: Path, text: str
) -> None:
    chat.messages = [Message("user", "kept")]
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match="holds no conversation"):
        chat.load(file)
    with pytest.raises(InputError, match="cannot be read"):
        chat.load(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be written"):
        chat.save(file / "chat.jsonl")
    assert chat.messages == [Message("user", "kept")]


def test_token_view_marks_what_is_trained(chat: Chat, screen: Any) -> None:
    chat.messages = [Message("user", "é"), Message("assistant", "ok")]
    run_command("/tokens", chat, screen.console)
    text = screen.stdout.getvalue()
    end = chat.loaded.tokenizer.special["<|im_end|>"]
    assert "+'o'\xa0111" in text and f"+<|im_end|>\xa0{end}" in text
    assert r"b'\xc3'" + "\xa0195" in text and r"+b'\xc3'" not in text
    assert "3 of them (+)" in text


def test_thoughts_are_set_apart_or_hidden(chat: Chat, screen: Any, writes: Any) -> None:
    events = [ThinkDelta("7 times"), ThinkDelta(" 6"), ToolCall("python", "7*6\n"), DONE]
    for think, shown in (
        ("show", "[thinks] 7 times 6\n  [python] 7*6\n"),
        ("hide", "[thinks …]\n  [python] 7*6\n"),
    ):
        screen.stdout.truncate(screen.stdout.seek(0))
        printer = ReplyPrinter(screen.console, think, has_tools=True)
        for event in events:
            printer.show(event)
        assert screen.stdout.getvalue() == shown


def test_long_results_are_cut_on_the_screen_only(screen: Any) -> None:
    printer = ReplyPrinter(screen.console, "show", has_tools=True)
    printer.show(ToolResult("search", "\n".join(f"line {i}" for i in range(40))))
    lines = screen.stdout.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[1] == "           line 1" and lines[-1] == "           … 29 more lines"


# -- many conversations, tools of the command line --------------------------------------------------


def test_each_line_of_json_gets_a_line_of_json(
    model_folder: Path, json_screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "a")]
    rows[1]["messages"].insert(0, {"role": "system", "content": "be"})
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(json.dumps, rows)) + "\n\n"))
    run_chat(model_folder, sampling=SAMPLING, show_tokens=True, console=json_screen.console)
    first, second, third = map(json.loads, json_screen.stdout.getvalue().splitlines())
    assert first["ids"] == third["ids"] != second["ids"]
    rows[0]["messages"].append({"role": "assistant", "content": "x"})
    monkeypatch.setattr("sys.stdin", io.StringIO("\n" + json.dumps(rows[0])))
    with pytest.raises(InputError, match="line 2 ends with an answer"):
        run_chat(model_folder, sampling=SAMPLING, console=json_screen.console)


def test_tools_are_those_asked_for_or_those_there_are(screen: Any, tmp_path: Path) -> None:
    def opened(**options: Any) -> list[str]:
        with open_chat_tools(ToolOptions(**options), tmp_path / "sft", screen.console) as tools:
            return list(tools)

    assert opened() == ["python"]
    assert opened(names="none") == []
    assert opened(search_url="http://127.0.0.1:1/") == ["python", "search"]
    with pytest.raises(UserError, match="nothing to look through"):
        opened(names="python,search")
    with pytest.raises(UserError, match="`search` is not"):
        opened(names="python", corpus=tmp_path)
    (tmp_path / "corpus").mkdir()
    manifest = {"schema": SCHEMA, "kind": "corpus", "id": "0"}
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    assert opened() == ["python", "search"]
    assert opened(names="search") == ["search"]


def test_chat_without_a_sandbox_goes_on_without_python(
    screen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("llmpipe.apps.chat.session", "llmpipe.assistant.tools.python"):
        monkeypatch.setattr(f"{module}.examine_kernel", lambda: Kernel(0, False))
    with open_chat_tools(ToolOptions(), tmp_path, screen.console) as tools:
        assert tools == {}
    assert "no python tool" in screen.stderr.getvalue()
    with (
        pytest.raises(UserError, match="needs a sandbox"),
        open_chat_tools(ToolOptions("python"), tmp_path, screen.console),
    ):
        pass
    with open_chat_tools(ToolOptions(unsafe=True), tmp_path, screen.console) as tools:
        assert list(tools) == ["python"]


# -- the keyboard ----------------------------------------------------------------------------------


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys:
        yield keys


def test_enter_sends_and_alt_enter_starts_a_line(keys: PipeInput) -> None:
    keyboard = Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput())
    keys.send_text("one\x1b\rtwo\r")
    assert keyboard.ask() == "one\ntwo"


def test_pasted_lines_stay_one_message(keys: PipeInput) -> None:
    keyboard = Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput())
    keys.send_text("\x1b[200~a\n/quit\nb\x1b[201~!\r")
    assert keyboard.ask() == "a\n/quit\nb!"


def test_ctrl_c_and_ctrl_d_are_told_apart(keys: PipeInput) -> None:
    keyboard = Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput())
    keys.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        keyboard.ask()
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        keyboard.ask()


def test_history_is_for_its_owner_alone(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    keyboard = Keyboard({"help": ()}, lambda: "", file, keys=keys, screen=DummyOutput())
    keys.send_text("secret\r")
    keyboard.ask()
    assert "secret" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_talk_answers_until_ctrl_d_and_survives_errors(
    chat: Chat,
    screen: Any,
    keys: PipeInput,
    monkeypatch: pytest.MonkeyPatch,
    writes: Any,
) -> None:
    monkeypatch.setattr(
        session,
        "Keyboard",
        lambda *_: Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput()),
    )
    writes([*b"Hi"], TextDelta("Hi"), DONE)
    keys.send_text("hello\r/nonsense\r\r\x03/system Be brief.\r\x04")
    session._talk(chat, screen.console)
    assert screen.stdout.getvalue() == "Hi\n"
    assert "unknown command `/nonsense`" in screen.stderr.getvalue()
    assert "Ctrl-C again" in screen.stderr.getvalue()
    assert chat.system == "Be brief."
    assert [message.text for message in chat.messages] == ["hello", "Hi"]


def test_message_is_edited_at_the_keyboard_and_kept_if_that_is_given_up(
    chat: Chat, screen: Any, keys: PipeInput, monkeypatch: pytest.MonkeyPatch, writes: Any
) -> None:
    monkeypatch.setattr(
        session,
        "Keyboard",
        lambda *_: Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput()),
    )
    writes([*b"Hi"], TextDelta("Hi"), DONE)
    keys.send_text("one\r/edit\r two\r/edit\r\x03\x04")
    session._talk(chat, screen.console)
    assert [message.text for message in chat.messages] == ["one two", "Hi"]
    assert "nothing was changed" in screen.stderr.getvalue()


def test_message_that_cannot_be_answered_is_taken_back(
    chat: Chat, screen: Any, keys: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session,
        "Keyboard",
        lambda *_: Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput()),
    )
    keys.send_text("x" * 500 + "\rhello\r\x04")
    session._talk(chat, screen.console)
    assert "context holds 128" in screen.stderr.getvalue()
    assert [message.role for message in chat.messages] == ["user", "assistant"]


def test_status_names_model_temperature_context_and_tools(chat: Chat) -> None:
    chat.name = "tiny/sft"
    assert status(chat) == "tiny/sft · temperature 0 · context 1/128 (1%) · tools none"
    chat.tools, chat.think = {"python": FakeTool()}, "hide"
    assert status(chat).endswith("tools python · thinking hidden")


def test_completion_offers_commands_words_and_files(tmp_path: Path) -> None:
    words = {name: command.words for name, command in COMMANDS.items()}
    completer = CommandCompleter(words)

    def offered(text: str) -> list[str]:
        return [c.text for c in completer.get_completions(Document(text), CompleteEvent())]

    assert offered("/to") == ["tokens", "tools"]
    assert offered("/think ") == ["show", "hide", "off"]
    assert offered("/set temp") == ["temperature"]
    (tmp_path / "chat.jsonl").touch()
    assert offered(f"/load {tmp_path}/ch") == ["at.jsonl"]
    assert offered("to") == offered("/help x") == offered("/nonsense ") == []


def test_two_ctrl_c_leave(
    chat: Chat, screen: Any, keys: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session,
        "Keyboard",
        lambda *_: Keyboard({"help": ()}, lambda: "", keys=keys, screen=DummyOutput()),
    )
    keys.send_text("\x03\x03never\r")
    session._talk(chat, screen.console)
    assert chat.messages == []
