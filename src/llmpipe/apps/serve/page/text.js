// The model as it is before it becomes an assistant: it goes on with a text.

import * as api from "./api.js";
import { button, h, say, toast } from "./dom.js";
import { tokenStrip } from "./tokens.js";
import { addEvent, plainText } from "./turn.js";

const N_TOP = 8;
const MAX_TOKENS = 64;  // a base model does not stop by itself

/**
 * Draw a text and what can be done with it.
 *
 * @param view     element to draw into
 * @param page     {conversation, info, special, sampling, save, setBusy, compare, setContext}
 */
export function drawText(view, page) {
  const { conversation } = page;
  const before = [];  // texts to go back to
  let showsTokens = false, drawn = null;
  let timer;
  const area = h("textarea", { class: "paper", "aria-label": "Text", spellcheck: "false", value: conversation.text, placeholder: "Begin a text; the model goes on with it." });
  const strip = h("div");
  const go = button("Continue", () => write(), { class: "main" });
  const stop = button("Stop", () => page.abort(), { hidden: true });
  const undo = button("Undo", () => { setText(before.pop(), null); update(); }, { disabled: true });
  const five = button("5 continuations", () => page.compare(request({ prompt: area.value }), { prompt: area.value }, (turn) => {
    remember();
    setText(area.value + plainText(turn), null);
    update();
  }));
  const tokens = button("Tokens", () => { showsTokens = !showsTokens; update(); }, { "aria-pressed": "false" });
  area.addEventListener("input", () => { setText(area.value, null); drawTokensSoon(); });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); write(); }
  });
  view.replaceChildren(h("div", { class: "text-mode" }, area,
    h("div", { class: "toolbar shown" }, go, stop, undo, five, tokens, h("span", { class: "faint wide-only" }, "Ctrl-Enter continues, Esc stops")), strip));
  update();
  area.focus();

  function remember() {
    before.push(area.value);
  }

  /** Take a text, with the tokens it was made of if they are known. */
  function setText(text, known) {
    conversation.text = text;
    conversation.tokens = known;
    conversation.title = text.trim().slice(0, 60);
    if (area.value !== text) area.value = text;
    page.save();
  }

  function request(start) {
    return {
      max_tokens: MAX_TOKENS, ...page.sampling(), ...start,
      logprobs: N_TOP, return_token_ids: true, return_token_strs: true,
    };
  }

  /** Go on; from before token `i` of the strip, with another token there, if one is given. */
  async function write(from) {
    if (page.isBusy()) return;
    clearTimeout(timer);
    remember();
    let text = area.value, known = [], prompt = text;
    if (from) {
      known = from.tokens;
      prompt = known.map((token) => token.id);
      text = (await api.call("detokenize", { tokens: prompt.filter((id) => !page.special.has(id)) })).prompt;
    }
    const turn = { segments: [{ kind: "text", text: "" }], tokens: [], finish: null };
    const signal = page.setBusy(true);
    update();
    try {
      for await (const event of api.stream("v1/completions", request({ prompt }), signal)) {
        for (const choice of event.choices) {
          if (choice.prompt_token_ids && !from) {
            known = choice.prompt_token_ids.map((id, i) => ({ id, text: choice.prompt_token_strs[i] }));
          }
          addEvent(turn, choice);
        }
        area.value = text + plainText(turn);
        area.scrollTop = area.scrollHeight;
      }
      say("The text has gone on");
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message);
    }
    page.setBusy(false);
    setText(area.value, [...known, ...turn.tokens]);
    update();
  }

  async function resample(i, id) {
    const tokens = conversation.tokens.slice(0, i);
    const old = conversation.tokens[i];
    if (id !== null) {
      const other = old.top.find((one) => one.id === id);
      tokens.push({ id, text: other.text, p: other.p, top: old.top });
    }
    await write({ tokens });
  }

  function drawTokensSoon() {
    clearTimeout(timer);
    timer = setTimeout(update, 250);
  }

  async function update() {
    const isBusy = page.isBusy();
    go.hidden = isBusy;
    stop.hidden = !isBusy;
    area.readOnly = isBusy;
    undo.disabled = isBusy || !before.length;
    five.disabled = tokens.disabled = isBusy;
    tokens.setAttribute("aria-pressed", String(showsTokens));
    tokens.textContent = showsTokens ? "Hide tokens" : "Tokens";
    if (isBusy) return;
    if (!showsTokens) {
      strip.replaceChildren();
      drawn = null;
      page.setContext(conversation.tokens?.length ?? null);
      return;
    }
    let shown = conversation.tokens;
    if (!shown) {
      const answer = await api.call("tokenize", { prompt: area.value, return_token_strs: true });
      shown = answer.tokens.map((id, i) => ({ id, text: answer.token_strs[i] }));
      conversation.tokens ??= shown;
    }
    page.setContext(shown.length);
    if (shown === drawn) return;  // somebody may be in the middle of choosing one
    drawn = shown;
    strip.replaceChildren(tokenStrip(shown, page.special, resample));
  }
}
