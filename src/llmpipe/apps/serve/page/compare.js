// Several answers side by side, put in order by dragging or with the arrow keys: data for a reward model.

import * as api from "./api.js";
import { button, h, say, toast } from "./dom.js";
import { markdown } from "./markdown.js";
import { addEvent, plainText, toAnswer } from "./turn.js";

const N_ANSWERS = 5;
const WORDS = ["zero", "one", "two", "three", "four", "five"];

/**
 * Ask for five answers and show them as they are written.
 *
 * @param dialog   to show them in
 * @param request  {path, body, line, canSave}: what is asked, and what a line of preferences begins with
 * @param use      called with the turn that is to become part of the conversation
 */
export async function compare(dialog, request, use) {
  const turns = Array.from({ length: N_ANSWERS }, (_, i) => ({
    name: String.fromCharCode(65 + i), segments: [], tokens: [], finish: null, seed: request.body.seed + i,
  }));
  const order = h("ol", { class: "answers" });
  const status = h("p", { class: "faint", role: "status" }, "Writing…");
  const save = button("Save the order", () => saveOrder(), { class: "main", disabled: true });
  const cards = turns.map((turn) => card(turn, order, () => { dialog.close(); use(turn); }));
  order.append(...cards.map((one) => one.element));
  dialog.replaceChildren(
    h("div", { class: "dialog-head" },
      h("h2", { id: "compare-title" }, `${WORDS[N_ANSWERS].replace(/^./, (c) => c.toUpperCase())} answers`),
      save, button("Close", () => dialog.close(), { class: "quiet" })),
    h("p", { class: "faint" }, "Best first: drag a card by its head, or move it with the arrow keys. ",
      request.canSave ? "Saving appends the order to a file on the server." : "This server keeps no preferences."),
    status, order);
  dialog.showModal();

  const abort = new AbortController();
  dialog.addEventListener("close", () => abort.abort(), { once: true });
  try {
    for await (const event of api.stream(request.path, { ...request.body, n: N_ANSWERS }, abort.signal)) {
      for (const choice of event.choices) {
        addEvent(turns[choice.index], choice);
        cards[choice.index].update();
      }
    }
    status.textContent = "All are written.";
    save.disabled = !request.canSave;
    for (const one of cards) one.update();
  } catch (error) {
    if (error.name !== "AbortError") status.textContent = error.message;
  }

  async function saveOrder() {
    save.disabled = true;
    const ranked = [...order.children].map((element) => turns[element.dataset.i]);
    const { n, stream, seed, messages, prompt, logprobs, top_logprobs, return_token_ids, return_token_strs, ...sampling } = request.body;
    try {
      const answers = ranked.map((turn) => toAnswer(turn, turn.seed));
      const written = await api.call("preferences", { ...request.line, answers, sampling });
      status.textContent = `Saved to ${written.file}.`;
      say(`Saved to ${written.file}`);
    } catch (error) {
      save.disabled = false;
      toast(error.message);
    }
  }

  function card(turn, list, onUse) {
    const body = h("div", { class: "answer-body", tabindex: "0" });
    const rank = h("span", { class: "rank", "aria-hidden": "true" });
    const grip = h("button", { type: "button", class: "grip", "aria-label": `Answer ${turn.name}: arrow keys move it` }, rank, h("b", {}, turn.name));
    const end = h("span", { class: "faint" });
    const useIt = button("Use this one", onUse, { disabled: true });
    const element = h("li", { class: "answer", "data-i": turns.indexOf(turn) },
      h("div", { class: "answer-head" }, grip, end), body, h("div", { class: "toolbar shown" }, useIt));
    const place = () => [...list.children].indexOf(element);
    const move = (to) => {
      const others = [...list.children].filter((other) => other !== element);
      list.insertBefore(element, others[to] ?? null);
      renumber(list);
      say(`Answer ${turn.name} is number ${to + 1}`);
    };
    grip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      move(Math.max(0, Math.min(list.children.length - 1, place() + step)));
      grip.focus();
    });
    drag(grip, element, list);
    return {
      element,
      update() {
        body.replaceChildren(...turn.segments.flatMap((segment) =>
          segment.kind === "text" ? markdown(segment.text)
            : h("p", { class: "faint" }, segment.kind === "thought" ? "(thought)" : `${segment.name}: ${segment.input} → ${segment.output ?? "…"}`)));
        if (turn.finish && !plainText(turn)) body.append(h("p", { class: "faint" }, "(an empty answer)"));
        end.textContent = turn.finish ? `${turn.tokens.length} tokens${turn.finish === "length" ? ", cut off" : ""}` : "…";
        useIt.disabled = !turn.finish;
        renumber(list);
      },
    };
  }
}

const renumber = (list) =>
  [...list.children].forEach((element, i) => { element.querySelector(".rank").textContent = i + 1; });

/** Drag with mouse, pen or finger; the card takes the place of the one it is held over. */
function drag(grip, element, list) {
  grip.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    grip.setPointerCapture(event.pointerId);
    element.classList.add("dragged");
    const follow = (moved) => {
      const over = [...list.children].find((other) => {
        const box = other.getBoundingClientRect();
        return other !== element && moved.clientX >= box.left && moved.clientX <= box.right && moved.clientY >= box.top && moved.clientY <= box.bottom;
      });
      if (!over) return;
      const cards = [...list.children];
      list.insertBefore(element, cards.indexOf(over) > cards.indexOf(element) ? over.nextSibling : over);
      // Moving an element in the document takes the capture away from it.
      grip.setPointerCapture(event.pointerId);
      renumber(list);
    };
    const drop = () => {
      element.classList.remove("dragged");
      document.removeEventListener("pointermove", follow);
      document.removeEventListener("pointerup", drop);
      document.removeEventListener("pointercancel", drop);
      grip.focus();
    };
    document.addEventListener("pointermove", follow);
    document.addEventListener("pointerup", drop);
    document.addEventListener("pointercancel", drop);
  });
}
