// Tokens as the model sees them: a strip of pieces, and what else could have stood in the place of one.

import { button, h } from "./dom.js";

const SIGNS = { " ": "·", "\n": "⏎", "\t": "→", "\r": "␍" };

/** Spaces, line breaks and characters that show nothing, made visible. */
export const visible = (text) =>
  text.replace(/[ \n\t\r]/g, (sign) => SIGNS[sign])
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);

export const percent = (p) => (p >= 0.9995 ? "100" : p >= 0.0995 ? (100 * p).toFixed(0) : p >= 0.001 ? (100 * p).toFixed(1) : "<0.1");

/**
 * A strip of tokens that arrow keys walk through.
 *
 * @param tokens    {id, text, forced, p, top, trained}
 * @param special   set of the ids of control tokens
 * @param onResample  (index, id or null) => void: write on from before a token, with another one in its
 *                  place; without it the tokens can be looked at alone
 */
export function tokenStrip(tokens, special, onResample) {
  const details = h("div", { class: "details", "aria-live": "polite" });
  const strip = h("div", { class: "strip", role: "group", "aria-label": `${tokens.length} tokens; arrow keys walk through them` });
  let current = 0;

  const pieces = tokens.map((token, i) => {
    const kind = special.has(token.id) ? "special" : `hue${i % 4}`;
    const extra = `${token.forced ? " forced" : ""}${token.trained ? " trained" : ""}`;
    const piece = h("button", {
      type: "button", class: `token ${kind}${extra}`, tabindex: i ? "-1" : "0", "data-i": i,
      "aria-label": `${visible(token.text)}, token ${token.id}${token.p === undefined ? "" : `, ${percent(token.p)} percent`}`,
    }, h("span", { class: "piece" }, visible(token.text)));
    if (token.p !== undefined) {
      piece.append(h("span", { class: "chance" }, percent(token.p)));
      piece.style.setProperty("--p", token.p.toFixed(3));
    }
    return piece;
  });
  tokens.forEach((token, i) => {
    strip.append(pieces[i]);
    if (token.text.endsWith("\n")) strip.append(h("span", { class: "break" }));
  });

  function look(i) {
    pieces[current].tabIndex = -1;
    pieces[current].classList.remove("current");
    current = i;
    pieces[i].tabIndex = 0;
    pieces[i].classList.add("current");
    details.replaceChildren(...describe(tokens[i], i, special, onResample));
    details.scrollIntoView({ block: "nearest" });
  }

  strip.addEventListener("focusin", (event) => {
    const piece = event.target.closest(".token");
    if (piece) look(Number(piece.dataset.i));
  });
  strip.addEventListener("click", (event) => event.target.closest(".token")?.focus());
  strip.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to !== undefined && pieces[to]) {
      event.preventDefault();
      pieces[to].focus();
    } else if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      details.querySelector("button")?.focus();
    }
  });
  details.addEventListener("keydown", (event) => {
    const choices = [...details.querySelectorAll("button")];
    const at = choices.indexOf(document.activeElement);
    if (event.key === "Escape" || (event.key === "ArrowUp" && at === 0)) pieces[current].focus();
    else if (event.key === "ArrowDown") choices[at + 1]?.focus();
    else if (event.key === "ArrowUp") choices[at - 1]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return h("div", { class: "tokens" }, strip, details);
}

function describe(token, i, special, onResample) {
  const facts = [`token ${i + 1}`, `id ${token.id}`];
  if (special.has(token.id)) facts.push("control token");
  if (token.forced) facts.push("put in, not chosen");
  if (token.trained) facts.push("trained");
  const made = [h("p", { class: "faint" }, h("b", {}, visible(token.text)), ` ${facts.join(" · ")}`)];
  if (!token.top) return made;
  const rows = [...token.top];
  if (!rows.some((one) => one.id === token.id)) rows.push({ id: token.id, text: token.text, p: token.p });
  made.push(h("ul", { class: "choices" }, rows.map((one) => {
    const isChosen = one.id === token.id;
    const bar = h("span", { class: "bar" });
    bar.style.setProperty("--p", one.p.toFixed(4));
    const content = [
      h("span", { class: `piece${special.has(one.id) ? " special" : ""}` }, visible(one.text)), bar,
      h("span", { class: "number" }, `${percent(one.p)} %`),
    ];
    if (!onResample) return h("li", {}, h("span", { class: "choice" }, content));
    const title = isChosen ? "Draw again from here" : "Resample from here with this token";
    return h("li", {}, h("button", {
      type: "button", class: `choice${isChosen ? " chosen" : ""}`, title,
      "aria-label": `${title}: ${visible(one.text)}, ${percent(one.p)} percent`,
      onclick: () => onResample(i, isChosen ? null : one.id),
    }, content));
  })));
  const rest = 1 - rows.reduce((sum, one) => sum + one.p, 0);
  const note = onResample ? "A click resamples from here with that token; the chosen one is drawn again." : "";
  made.push(h("p", { class: "faint" }, rest > 0.0005 ? `All others: ${percent(rest)} %. ${note}` : note));
  return made;
}

const MAX_SHOWN = 4000;

/** Show the prompt of a conversation in a dialog. */
export function showPrompt(dialog, answer, special) {
  const tokens = answer.tokens.slice(0, MAX_SHOWN).map((id, i) => ({
    id, text: answer.token_strs[i], trained: answer.mask?.[i],
  }));
  const nTrained = (answer.mask ?? []).filter(Boolean).length;
  dialog.replaceChildren(
    h("div", { class: "dialog-head" },
      h("h2", { id: "prompt-title" }, "The prompt"),
      button("Close", () => dialog.close(), { class: "quiet" })),
    h("p", { class: "faint" },
      `${answer.count} of ${answer.max_model_len} tokens. A conversation is one sequence for the model; control tokens say who speaks. `,
      answer.mask ? `Underlined are the ${nTrained} that a model is trained to write.` : "",
      answer.count > MAX_SHOWN ? ` The first ${MAX_SHOWN} are shown.` : ""),
    tokenStrip(tokens, special));
  dialog.showModal();
}
