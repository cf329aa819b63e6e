// The page: which conversation is shown, and what happens when a person does something.

import * as api from "./api.js";
import { compare } from "./compare.js";
import { button, byId, h, say, toast } from "./dom.js";
import { drawMessage, fill, resetViews, typedTokens } from "./messages.js";
import * as settingsOf from "./settings.js";
import * as store from "./store.js";
import { drawText } from "./text.js";
import { showPrompt } from "./tokens.js";
import { addEvent, toMessages } from "./turn.js";

const N_TOP = 8;

const settings = settingsOf.load();
let info;
let special = new Set();
let conversations = [];
let conversation;
let abort = null;  // of the answer that is being written

// -- answers --------------------------------------------------------------------------------------

function chatBody(nodes) {
  return {
    messages: toMessages(nodes, settings.system.trim()),
    ...settingsOf.sampling(settings), ...settingsOf.toolFields(settings, info.tools),
    logprobs: true, top_logprobs: N_TOP, return_token_ids: true, return_token_strs: true,
  };
}

/** Write an answer below a message of the user; `kept` are the tokens that it begins with. */
async function answer(parent, kept = []) {
  if (abort) return;
  const node = store.addNode(conversation, parent.id, "assistant", []);
  node.tokens = [...kept];
  const body = chatBody(store.path(conversation, parent.id));
  if (kept.length) Object.assign(body, { continue_token_ids: kept.map((token) => token.id), echo: true });
  const signal = setBusy(true);
  draw();
  try {
    for await (const event of api.stream("v1/chat/completions", body, signal)) {
      if (event.prompt_token_ids) node.nPrompt = event.prompt_token_ids.length - kept.length;
      for (const choice of event.choices) addEvent(node, choice);
      drawSoon(node);
    }
    say("The answer is finished");
  } catch (error) {
    if (error.name === "AbortError") node.finish = "stopped";
    else node.error = error.message;
  }
  setBusy(false);
  await keep();
  draw();
}

let frame = null;

/** Draw a growing answer, once per picture of the screen. */
function drawSoon(node) {
  frame ??= requestAnimationFrame(() => {
    frame = null;
    const article = byId("view").querySelector(`[data-id="${node.id}"]`);
    if (!article) return;
    const atEnd = isAtEnd();
    fill(article, node, actions());
    if (atEnd) toEnd();
    showContext();
  });
}

function send(text) {
  const parent = conversation.head;
  const node = store.addNode(conversation, parent, "user", [{ kind: "text", text }]);
  keep();
  return node;
}

function actions() {
  return {
    conversation, special, isBusy: abort !== null,
    redraw(node, focus = ".toolbar button, textarea") {
      const article = byId("view").querySelector(`[data-id="${node.id}"]`);
      fill(article, node, actions());
      article.querySelector(focus)?.focus();
    },
    edit(node, text) {
      if (!text.trim()) return draw();
      conversation.head = node.parent;
      return answer(send(text));
    },
    regenerate: (node) => answer(conversation.nodes[node.parent]),
    resample(node, i, id) {
      const kept = node.tokens.slice(0, i);
      if (id !== null) {
        const other = node.tokens[i].top.find((one) => one.id === id);
        kept.push({ id, text: other.text, p: other.p, top: node.tokens[i].top });
      }
      if (info.stop_ids.includes(id)) return endThere(node, kept);
      return answer(conversation.nodes[node.parent], kept);
    },
    compare: (node) => compareBelow(conversation.nodes[node.parent]),
    switchTo(node) {
      store.show(conversation, node);
      keep();
      draw();
    },
    async tokensOf(node) {
      if (node.role === "assistant") return node.tokens;
      const prompt = node.segments[0].text;
      return typedTokens(await api.call("tokenize", { prompt, add_special_tokens: false, return_token_strs: true }));
    },
  };
}

/** The end of the turn was chosen in place of a token: nothing is left to be written. */
async function endThere(node, kept) {
  const ids = kept.slice(0, -1).filter((token) => !special.has(token.id)).map((token) => token.id);
  const text = (await api.call("detokenize", { tokens: ids })).prompt;
  const made = store.addNode(conversation, node.parent, "assistant", [{ kind: "text", text }]);
  Object.assign(made, { tokens: kept, finish: "stop" });
  await keep();
  draw();
}

function compareBelow(parent) {
  const body = chatBody(store.path(conversation, parent.id));
  const request = { path: "v1/chat/completions", body, line: { messages: body.messages }, canSave: info.takes_preferences };
  compare(byId("compare"), request, async (turn) => {
    const node = store.addNode(conversation, parent.id, "assistant", turn.segments);
    Object.assign(node, { tokens: turn.tokens, finish: turn.finish });
    await keep();
    draw();
  });
}

/** Begin or end an answer; return the signal that stops it. */
function setBusy(isBusy) {
  abort = isBusy ? new AbortController() : null;
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  byId("ask-five").disabled = isBusy;
  return abort?.signal;
}

// -- drawing --------------------------------------------------------------------------------------

function draw() {
  const isText = conversation.kind === "text";
  document.body.classList.toggle("is-text", isText);
  byId("composer").hidden = byId("show-prompt").hidden = isText;
  drawList();
  if (isText) {
    drawText(byId("view"), textPage());
    return;
  }
  const atEnd = isAtEnd();
  const nodes = store.path(conversation);
  byId("view").replaceChildren(...(nodes.length ? nodes.map((node) => drawMessage(node, actions())) : [welcome()]));
  if (atEnd) toEnd();
  showContext();
}

function welcome() {
  const tools = info.tools.length ? ` It can use ${info.tools.map((name) => ({ python: "Python", search: "search" })[name]).join(" and ")}.` : "";
  return h("div", { class: "welcome" },
    h("h2", {}, info.model),
    h("p", {}, `This model runs on your server and holds ${info.max_model_len} tokens.${tools}`),
    h("p", { class: "faint" }, "“Tokens” under a message shows what the model sees and how likely each token was; any other token can be taken in its place. “Prompt” shows the whole conversation as the one sequence that it is."));
}

function textPage() {
  return {
    conversation, special,
    sampling: () => settingsOf.sampling(settings),
    save: keep,
    setBusy, isBusy: () => abort !== null, abort: () => abort?.abort(),
    setContext,
    compare: (body, line, use) =>
      compare(byId("compare"), { path: "v1/completions", body, line, canSave: info.takes_preferences }, use),
  };
}

function showContext() {
  const last = store.path(conversation).filter((node) => node.role === "assistant" && node.nPrompt).at(-1);
  setContext(last ? last.nPrompt + last.tokens.length : null);
}

function setContext(n) {
  byId("context").textContent = n === null ? "" : `${n} / ${info.max_model_len} tokens`;
}

const isAtEnd = () => {
  const view = byId("view");
  return view.scrollHeight - view.scrollTop - view.clientHeight < 80;
};

const toEnd = () => { byId("view").scrollTop = byId("view").scrollHeight; };

function drawList() {
  byId("list").replaceChildren(...conversations.map((one) => h("li", { class: one === conversation ? "current" : null },
    button(one.title || (one.kind === "text" ? "New text" : "New chat"), () => open(one), {
      class: "title", "aria-current": one === conversation ? "true" : null, title: one.title,
    }),
    button("×", () => remove(one), { class: "remove", "aria-label": `Delete ${one.title || "this conversation"}` }))));
}

// -- conversations --------------------------------------------------------------------------------

async function keep() {
  drawList();
  try {
    await store.save(conversation);
  } catch (error) {
    toast(`This conversation could not be kept: ${error.message}`);
  }
}

function open(one) {
  abort?.abort();
  conversation = one;
  resetViews();
  closeSide();
  draw();
  if (conversation.kind === "chat") byId("input").focus();
}

function start(kind) {
  // One that is empty still is as good as a new one.
  let one = conversations.find((other) => other.kind === kind && !other.head && !other.text);
  if (!one) {
    one = store.newConversation(kind);
    conversations.unshift(one);
  }
  open(one);
}

async function remove(one) {
  conversations = conversations.filter((other) => other !== one);
  await store.remove(one.id);
  if (one === conversation) start(one.kind);
  else drawList();
  toast("Deleted.", { label: "Undo", run: async () => {
    conversations.unshift(one);
    await store.save(one);
    drawList();
  } });
}

// -- the frame of the page ------------------------------------------------------------------------

const THEMES = ["", "light", "dark"];
const THEME_NAMES = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" };

function showTheme() {
  byId("theme").textContent = THEME_NAMES[document.documentElement.dataset.theme ?? ""];
}

function nextTheme() {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    localStorage.setItem("theme", next);
  } catch { /* lasts as long as the page */ }
  showTheme();
}

function openSide() {
  document.body.classList.add("side-open");
  byId("shade").hidden = false;
  byId("close-side").focus();
}

function closeSide() {
  document.body.classList.remove("side-open");
  byId("shade").hidden = true;
}

function askForKey(wasWrong) {
  return new Promise((resolve) => {
    const dialog = byId("key");
    const input = h("input", { type: "password", id: "key-input", autocomplete: "current-password", required: true });
    const form = h("form", { method: "dialog" },
      h("h2", { id: "key-title" }, "This server needs a key"),
      h("p", { class: "faint" }, "It was given as --key or LLMPIPE_API_KEY where the server was started, and is kept until this tab is closed."),
      wasWrong ? h("p", { class: "error", role: "alert" }, "That key was not accepted.") : null,
      h("div", { class: "field" }, h("label", { for: "key-input" }, "Key"), input),
      h("div", { class: "toolbar shown" }, h("button", { class: "main", value: "ok" }, "Continue")));
    dialog.replaceChildren(form);
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? input.value : null), { once: true });
    dialog.showModal();
    byId("forget-key").hidden = false;
  });
}

function grow() {
  const input = byId("input");
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
}

function takeInput() {
  const text = byId("input").value;
  if (!text.trim() || abort) return null;
  byId("input").value = "";
  grow();
  const node = send(text);
  toEnd();
  return node;
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const node = takeInput();
    if (node) answer(node).then(() => byId("input").focus());
  });
  byId("input").addEventListener("keydown", (event) => {
    // On a touch keyboard Enter is a new line, as everywhere else on a phone.
    const isTouch = matchMedia("(hover: none)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !isTouch) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  });
  byId("input").addEventListener("input", grow);
  byId("ask-five").addEventListener("click", () => {
    const node = takeInput();
    const last = store.path(conversation).filter((one) => one.role === "user").at(-1);
    if (node) draw();
    if (node ?? last) compareBelow(node ?? last);
  });
  byId("stop").addEventListener("click", () => abort?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (abort) abort.abort();
    else closeSide();
  });
  byId("new-chat").addEventListener("click", () => start("chat"));
  byId("new-text").addEventListener("click", () => start("text"));
  byId("theme").addEventListener("click", nextTheme);
  byId("forget-key").addEventListener("click", () => { api.key.forget(); location.reload(); });
  byId("open-side").addEventListener("click", openSide);
  byId("close-side").addEventListener("click", closeSide);
  byId("shade").addEventListener("click", closeSide);
  byId("open-settings").addEventListener("click", () => settingsOf.open(byId("settings"), settings, info.tools, () => {}));
  byId("show-prompt").addEventListener("click", async () => {
    const body = { messages: toMessages(store.path(conversation), settings.system.trim()), ...settingsOf.toolFields(settings, info.tools) };
    if (!body.messages.length) return toast("There is no message yet.");
    const isAnswered = conversation.nodes[conversation.head]?.role === "assistant";
    try {
      const rendered = await api.call("tokenize", { ...body, add_generation_prompt: !isAnswered, return_token_strs: true });
      showPrompt(byId("prompt"), rendered, special);
    } catch (error) {
      toast(error.message);
    }
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    // A click beside the dialog closes it, but for the one that asks for the key.
    dialog.addEventListener("click", (event) => { if (event.target === dialog && dialog.id !== "key") dialog.close(); });
  }
}

async function run() {
  showTheme();
  listen();
  api.key.onMissing(askForKey);
  byId("forget-key").hidden = api.key.get() === null;
  try {
    info = await api.call("info");
  } catch (error) {
    byId("view").replaceChildren(h("p", { class: "error", role: "alert" }, error.message), button("Try again", () => location.reload()));
    byId("composer").hidden = true;
    return;
  }
  special = new Set(Object.values(info.special_tokens));
  byId("model").textContent = info.model;
  document.title = `${info.model} · llmpipe`;
  byId("new-chat").disabled = !info.can_chat;
  conversations = await store.all();
  start(info.can_chat ? "chat" : "text");
  document.body.dataset.ready = "yes";
}

run();
