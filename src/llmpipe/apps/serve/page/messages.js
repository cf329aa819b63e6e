// Drawing a conversation: one element per message of the branch that is shown.

import { button, h } from "./dom.js";
import { markdown } from "./markdown.js";
import * as store from "./store.js";
import { tokenStrip } from "./tokens.js";
import { plainText } from "./turn.js";

/** What is drawn in place of the text: node id -> tokens; node id -> an editor. */
const tokenViews = new Map();
let edited = null;

/**
 * Draw one message.
 *
 * @param node     of the conversation
 * @param actions  what can be done: {conversation, special, isBusy, edit, regenerate, resample, compare, switchTo, tokensOf, redraw}
 */
export function drawMessage(node, actions) {
  const label = node.role === "user" ? "You" : "Assistant";
  const article = h("article", { class: `message ${node.role}`, "aria-label": label, "data-id": node.id });
  fill(article, node, actions);
  return article;
}

/** Draw a message anew, where it stands. */
export function fill(article, node, actions) {
  if (edited === node.id) {
    article.replaceChildren(editor(node, actions));
    return;
  }
  const tokens = tokenViews.get(node.id);
  const isWriting = actions.isBusy && actions.conversation.head === node.id;
  const body = tokens && !isWriting
    ? tokenStrip(tokens, actions.special, node.role === "assistant" ? (i, id) => { tokenViews.delete(node.id); actions.resample(node, i, id); } : null)
    : content(node, isWriting);
  article.replaceChildren(h("div", { class: "body" }, body), isWriting ? "" : toolbar(node, actions));
}

function content(node, isWriting) {
  if (node.role === "user") return h("p", { class: "typed" }, plainText(node));
  const made = node.segments.map((segment, i) => {
    const isLast = i === node.segments.length - 1;
    if (segment.kind === "text") return markdown(segment.text);
    if (segment.kind === "thought") return thought(segment, isWriting && isLast);
    return run(segment);
  });
  if (isWriting) made.push(h("span", { class: "caret", "aria-hidden": "true" }));
  else if (!node.segments.length && !node.error) made.push(h("p", { class: "faint" }, "(an empty answer)"));
  if (node.error) made.push(h("p", { class: "error", role: "alert" }, node.error));
  return made;
}

function thought(segment, isOpen) {
  return h("details", { class: "pane", open: isOpen },
    h("summary", {}, isOpen ? "Thinking…" : "Thought"), h("div", { class: "thought" }, segment.text));
}

function run(segment) {
  const verb = { python: "Ran Python", search: "Searched" }[segment.name] ?? segment.name;
  return h("details", { class: "pane run", open: true },
    h("summary", {}, segment.output === null ? `${verb}…` : verb),
    h("pre", { tabindex: "0", "aria-label": "Input" }, segment.input),
    segment.output === null ? null : h("pre", { class: "output", tabindex: "0", "aria-label": "Output" }, segment.output));
}

const ENDS = { length: "cut off at the limit", stopped: "stopped" };

function toolbar(node, actions) {
  const bar = h("div", { class: "toolbar" });
  const around = store.siblings(actions.conversation, node);
  if (around.length > 1) {
    const at = around.indexOf(node);
    const to = (k, label, sign) => button(sign, () => actions.switchTo(around[k]), { "aria-label": label, disabled: !around[k] });
    bar.append(h("span", { class: "branches" }, to(at - 1, "Previous version", "‹"),
      h("span", {}, `${at + 1}/${around.length}`), to(at + 1, "Next version", "›")));
  }
  if (node.role === "user") {
    bar.append(button("Edit", () => { edited = node.id; actions.redraw(node); }, { disabled: actions.isBusy }));
  } else {
    bar.append(
      button("Copy", () => navigator.clipboard.writeText(plainText(node))),
      button("Regenerate", () => actions.regenerate(node), { disabled: actions.isBusy }),
      button("5 answers", () => actions.compare(node), { disabled: actions.isBusy }));
  }
  bar.append(button(tokenViews.has(node.id) ? "Text" : "Tokens", () => toggleTokens(node, actions), {
    "aria-pressed": String(tokenViews.has(node.id)),
  }));
  if (ENDS[node.finish]) bar.append(h("span", { class: "faint" }, ENDS[node.finish]));
  return bar;
}

async function toggleTokens(node, actions) {
  if (tokenViews.has(node.id)) tokenViews.delete(node.id);
  else tokenViews.set(node.id, await actions.tokensOf(node));
  actions.redraw(node, node.role === "user" || tokenViews.has(node.id) ? ".token, .toolbar button[aria-pressed]" : "[aria-pressed]");
}

function editor(node, actions) {
  const text = h("textarea", { "aria-label": "Edit the message", value: plainText(node) });
  const close = () => { edited = null; actions.redraw(node); };
  const save = () => { edited = null; actions.edit(node, text.value); };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  queueMicrotask(() => { text.rows = Math.min(12, text.value.split("\n").length + 1); text.focus(); });
  return h("div", { class: "editor" }, text,
    h("div", { class: "toolbar shown" }, button("Send", save, { class: "main" }), button("Cancel", close),
      h("span", { class: "faint" }, "The old version stays as a branch.")));
}

/** Forget what is open, when another conversation is shown. */
export function resetViews() {
  tokenViews.clear();
  edited = null;
}

/** The ids of a typed text as the strip wants them. */
export const typedTokens = (answer) => answer.tokens.map((id, i) => ({ id, text: answer.token_strs[i] }));

