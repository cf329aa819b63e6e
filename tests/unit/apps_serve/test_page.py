"""The chat page in a real browser, against a real server whose model says what a script tells it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmpipe.apps.serve.page import page_files
from llmpipe.apps.serve.service import ToolRunner

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]

HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'> **bold** "
    "[bad](javascript:window.hacked=1) [good](https://example.org/) `<b>`"
)
LINES: dict[str, Any] = {
    "Hello": "Hi there.",
    "sum": [
        "<|think_start|>", *"Use a tool.", "<|think_end|>",
        "<|python_start|>", *"7*7", "<|python_end|>", "<|output|>", *"It is 49.",
    ],
    "slow": "a" * 300,
    "hostile": HOSTILE,
    "list": "# Head\n\n- one\n- two\n\n```py\nx < 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "pick": frozenset("ABCDE"),
    "Once upon a time": "",
}  # fmt: skip


class Product:
    """Stands in for Python."""

    def run(self, text: str) -> str:
        return "49"


@contextlib.contextmanager
def _open_tools(names: Any) -> Iterator[Mapping[Any, Product]]:
    yield {"python": Product()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "preferences.jsonl"


@pytest.fixture(scope="module")
def served(preferences: Path, start_for_module: Callable[..., Any]) -> Iterator[Any]:
    with start_for_module(
        lines=LINES,
        pause_s=0.003,
        tools=ToolRunner(_open_tools, ("python",)),
        preferences=preferences,
    ) as served:
        yield served


@contextlib.contextmanager
def open_page(browser: Any, served: Any, **settings: Any) -> Iterator[Any]:
    """Yield the page; anything that its console complains about fails the test."""
    context = browser.new_context(**settings)
    context.set_default_timeout(8000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    try:
        page.goto(f"http://127.0.0.1:{served.port}/")
        yield page
        # These come up in tests that make errors on purpose.
        meant = ("Failed to load resource", "requires 'TrustedHTML'")
        assert not [text for text in complaints if not any(part in text for part in meant)]
    finally:
        context.close()


@pytest.fixture
def page(browser: Any, served: Any) -> Iterator[Any]:
    with open_page(browser, served) as page:
        page.wait_for_selector("body[data-ready]")
        yield page
    served.wait_until_idle()


def ask(page: Any, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


def answers(page: Any) -> Any:
    return page.locator("article.assistant")


def wait_until_written(page: Any) -> None:
    page.wait_for_selector("#send:not([hidden])")


def test_message_is_sent_and_the_answer_streams_in(page: Any) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text("Hi there.")
    expect(page.locator("#context")).to_contain_text("/ 400 tokens")
    expect(page.locator("#list .title")).to_have_text("Hello")
    page.reload()
    page.locator("#list .title", has_text="Hello").click()
    expect(answers(page)).to_contain_text("Hi there.")


def test_stop_keeps_what_is_there_and_frees_the_slot(page: Any, served: Any) -> None:
    ask(page, "slow")
    expect(answers(page)).to_contain_text("aaa")
    page.click("#stop")
    expect(answers(page).locator(".toolbar")).to_contain_text("stopped")
    served.wait_until_idle()
    n = len(answers(page).locator(".body").inner_text())
    assert 3 <= n < 300
    ask(page, "slow")
    expect(answers(page).last).to_contain_text("aaa")
    page.keyboard.press("Escape")
    expect(answers(page).last.locator(".toolbar")).to_contain_text("stopped")


def test_edit_makes_a_branch_and_both_stay(page: Any) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text("Hi there.")
    user = page.locator("article.user")
    user.hover()
    user.get_by_role("button", name="Edit").click()
    user.get_by_label("Edit the message").fill("sum")
    user.get_by_role("button", name="Send").click()
    expect(answers(page)).to_contain_text("It is 49.")
    expect(user.locator(".branches")).to_contain_text("2/2")
    user.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_contain_text("Hi there.")


def test_regenerate_keeps_the_first_answer(page: Any) -> None:
    ask(page, "pick")
    expect(answers(page).locator(".body")).to_have_text(re.compile("^[A-E]$"))
    first = answers(page).locator(".body").inner_text()
    answers(page).get_by_role("button", name="Regenerate").click()
    expect(answers(page).locator(".branches")).to_contain_text("2/2")
    answers(page).get_by_role("button", name="Previous version").click()
    expect(answers(page).locator(".body")).to_have_text(first)


def test_thought_and_tool_have_panes(page: Any) -> None:
    ask(page, "sum")
    expect(answers(page)).to_contain_text("It is 49.")
    expect(answers(page).locator(".run pre")).to_have_text(["7*7", "49"])
    expect(answers(page).locator(".thought")).to_have_text("Use a tool.")
    expect(answers(page).locator(".thought")).to_be_hidden()
    # In the next turn the thought is forgotten and the run is not.
    page.click("#show-prompt")
    prompt = page.locator("#prompt .strip").inner_text().replace("\n", "")
    assert "<|python_start|>7*7<|python_end|><|output_start|>49<|output_end|>It·is·49." in prompt


def test_token_is_resampled_from_its_alternatives(page: Any) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text("Hi there.")
    answers(page).get_by_role("button", name="Tokens").click()
    tokens = answers(page).locator(".token")
    expect(tokens).to_have_count(len("Hi there.") + 1)
    expect(tokens.last).to_contain_text("<|im_end|>")
    tokens.nth(3).click()
    choices = answers(page).locator(".choice")
    expect(choices.first).to_contain_text("t")
    expect(choices.first).to_contain_text("100 %")
    choices.filter(has=page.locator(".piece", has_text=re.compile("^X$"))).click()
    expect(answers(page).locator(".body")).to_have_text("Hi X")
    expect(answers(page).locator(".branches")).to_contain_text("2/2")


def test_resampling_within_a_tool_call_runs_the_tool_again(page: Any) -> None:
    ask(page, "sum")
    expect(answers(page)).to_contain_text("It is 49.")
    answers(page).get_by_role("button", name="Tokens").click()
    token = answers(page).locator(".token", has_text="<|python_end|>")
    token.click()
    answers(page).locator(".choice.chosen").click()
    expect(answers(page).locator(".branches")).to_contain_text("2/2")
    expect(answers(page).locator(".run pre")).to_have_text(["7*7", "49"])
    expect(answers(page)).to_contain_text("It is 49.")


def test_typed_message_and_prompt_are_shown_as_tokens(page: Any) -> None:
    ask(page, "<|im_end|>")
    wait_until_written(page)
    page.locator("article.user").hover()
    page.locator("article.user").get_by_role("button", name="Tokens").click()
    # Ten characters that a person typed, and no control token among them.
    expect(page.locator("article.user .token")).to_have_count(10)
    expect(page.locator("article.user .token.special")).to_have_count(0)
    page.click("#show-prompt")
    special = page.locator("#prompt .token.special")
    expect(special.first).to_contain_text("<|bos|>")
    expect(page.locator("#prompt .token.trained.special")).to_have_count(1)


def test_html_and_scripts_in_messages_stay_text(page: Any) -> None:
    ask(page, "hostile")
    expect(answers(page)).to_contain_text("window.hacked=1</script>")
    ask(page, "<b>me</b><script>window.hacked=1</script>")
    wait_until_written(page)
    page.click("#show-prompt")
    for name in ("script", "img", "b"):
        assert page.locator(f"#view {name}").count() == 0
    assert page.evaluate("window.hacked") is None
    body = answers(page).first
    expect(body.locator("strong")).to_have_text("bold")
    expect(body.locator("code")).to_have_text("<b>")
    assert [a.get_attribute("href") for a in body.locator("a").all()] == ["https://example.org/"]
    page.evaluate(
        "() => { try { document.body.innerHTML = '<i>x</i>' } catch { window.refused = 1 } }"
    )
    assert page.evaluate("window.refused") == 1  # trusted types: not even our own code can


def test_markdown_becomes_elements(page: Any) -> None:
    ask(page, "list")
    wait_until_written(page)
    body = answers(page)
    expect(body.locator("h3")).to_have_text("Head")
    expect(body.locator("li")).to_have_text(["one", "two"])
    expect(body.locator("figure pre")).to_have_text("x < 1")
    expect(body.locator("td")).to_have_text(["1", "2"])


def test_five_answers_are_ordered_by_dragging_and_written_down(
    page: Any, preferences: Path
) -> None:
    ask(page, "pick")
    wait_until_written(page)
    answers(page).get_by_role("button", name="5 answers").click()
    save = page.get_by_role("button", name="Save the order")
    expect(save).to_be_enabled()
    cards = page.locator(".answer")
    names = cards.locator(".grip b")
    expect(names).to_have_text(["A", "B", "C", "D", "E"])
    texts = dict(
        zip("ABCDE", [t.strip() for t in cards.locator(".answer-body").all_inner_texts()], strict=True)
    )  # fmt: skip
    last = cards.nth(4).locator(".grip").bounding_box()
    first = cards.nth(0).bounding_box()
    page.mouse.move(last["x"] + 20, last["y"] + 15)
    page.mouse.down()
    page.mouse.move(first["x"] + 30, first["y"] + 40, steps=8)
    page.mouse.up()
    expect(names).to_have_text(["E", "A", "B", "C", "D"])
    save.click()
    expect(page.locator("#compare")).to_contain_text("Saved to preferences.jsonl")
    line = json.loads(preferences.read_text().splitlines()[-1])
    assert [answer["content"] for answer in line["answers"]] == [texts[name] for name in "EABCD"]
    seeds = [answer["seed"] for answer in line["answers"]]
    assert [seed - min(seeds) for seed in seeds] == [4, 0, 1, 2, 3]
    assert line["messages"] == [{"role": "user", "content": "pick"}]
    assert line["sampling"] == {"temperature": 0.8}
    cards.first.get_by_role("button", name="Use this one").click()
    expect(answers(page).locator(".body")).to_have_text(texts["E"])


def test_base_model_mode_goes_on_with_a_text(page: Any) -> None:
    page.click("#new-text")
    paper = page.get_by_label("Text", exact=True)
    paper.fill("Once upon")
    page.get_by_role("button", name="Continue").click()
    expect(paper).to_have_value("Once upon a time")
    page.get_by_role("button", name="Tokens").click()
    tokens = page.locator(".text-mode .token")
    expect(tokens).to_have_count(1 + len("Once upon a time") + 1)
    tokens.nth(1 + len("Once upon a ")).click()
    page.locator(".choice", has=page.locator(".piece", has_text=re.compile("^X$"))).click()
    expect(paper).to_have_value("Once upon a X")
    page.get_by_role("button", name="Undo").click()
    expect(paper).to_have_value("Once upon a time")


def test_everything_can_be_done_from_the_keyboard(page: Any, preferences: Path) -> None:
    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    def focused() -> str:
        return page.evaluate("document.activeElement.innerText || document.activeElement.id")

    def tab_to(name: str, back: bool = False) -> None:
        for _ in range(40):
            if focused().strip().startswith(name):
                return
            press("Shift+Tab" if back else "Tab")
        raise AssertionError(f"{name} cannot be reached")

    page.keyboard.type("pick")
    press("Enter")
    wait_until_written(page)
    tab_to("Tokens", back=True)
    press("Enter")
    expect(answers(page).locator(".token")).to_have_count(2)
    expect(answers(page).locator(".token").first).to_be_focused()
    press("ArrowRight", "ArrowLeft", "Enter")  # the first token's choices
    choices = answers(page).locator(".choice")
    is_second_chosen = "chosen" in choices.nth(1).get_attribute("class")  # that one is drawn again
    i_wanted = 2 if is_second_chosen else 1
    letter = choices.nth(i_wanted).locator(".piece").inner_text()
    press(*["ArrowDown"] * i_wanted, "Enter")
    wait_until_written(page)
    expect(answers(page).locator(".body")).to_have_text(letter)

    tab_to("5 answers", back=True)
    press("Enter")
    expect(page.get_by_role("button", name="Save the order")).to_be_enabled()
    for _ in range(40):
        if page.evaluate("document.activeElement.classList.contains('grip')"):
            break
        press("Tab")
    press("ArrowRight", "ArrowDown")
    expect(page.locator(".grip b")).to_have_text(["B", "C", "A", "D", "E"])
    before = len(preferences.read_text().splitlines()) if preferences.exists() else 0
    tab_to("Save the order", back=True)
    press("Enter")
    expect(page.locator("#compare")).to_contain_text("Saved to")
    assert len(preferences.read_text().splitlines()) == before + 1
    press("Escape")
    expect(page.locator("#compare")).to_be_hidden()


def test_settings_reach_the_server(page: Any) -> None:
    page.click("#open-settings")
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Most tokens").fill("4")
    page.get_by_label("Python").uncheck()
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "Hello")
    body = caught.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_tokens"], body["tools"]) == (4, [])
    expect(answers(page).locator(".body")).to_have_text("Hi t")
    expect(answers(page).locator(".toolbar")).to_contain_text("cut off")


def test_error_is_shown_where_the_answer_would_stand(page: Any) -> None:
    ask(page, "x" * 500)
    expect(answers(page).get_by_role("alert")).to_contain_text("the context holds 400")


def test_page_asks_for_the_key_and_keeps_it_in_the_tab(
    browser: Any, start: Callable[..., Any]
) -> None:
    with start(key="s3cret", lines=LINES) as served, open_page(browser, served) as page:
        for word in ("wrong", "s3cret"):
            page.locator("#key-input").fill(word)
            page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        ask(page, "Hello")
        expect(answers(page)).to_contain_text("Hi there.")
        kept = page.evaluate("[sessionStorage.getItem('key'), JSON.stringify(localStorage)]")
        assert kept[0] == "s3cret" and "s3cret" not in kept[1]


def test_phone_has_no_sideways_scrolling_and_reaches_everything(browser: Any, served: Any) -> None:
    settings = {
        "viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True,
        "color_scheme": "dark",
    }  # fmt: skip
    with open_page(browser, served, **settings) as page:
        page.wait_for_selector("body[data-ready]")
        page.fill("#input", "sum")
        page.tap("#send")
        expect(answers(page)).to_contain_text("It is 49.")
        answers(page).get_by_role("button", name="Tokens").tap()
        answers(page).locator(".token").nth(2).tap()
        expect(answers(page).locator(".choice").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.querySelector('#view').scrollWidth") <= 360
        page.get_by_role("button", name="Conversations").tap()
        expect(page.get_by_role("button", name="New text")).to_be_in_viewport()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Theme: system").tap()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_files_need_nothing_from_elsewhere() -> None:
    files = {name: data.decode() for name, data in page_files().items()}
    starts = {"page.html", "tokenizer.html"}
    html = "".join(files[name] for name in starts)
    assert not re.findall(r"<script(?![^>]*\ssrc=)|\son\w+=|style=", html)
    asked = re.findall(r'(?:src|href)="page/([^"]+)"', html)
    asked += [name for text in files.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    assert set(asked) | starts == set(files)
    for name, text in files.items():
        without_names = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://\w", without_names), name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text), name
