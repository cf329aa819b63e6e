// A text as tokens, of several tokenizers beside each other, as it is typed.

import { call, key } from "./api.js";

key.onMissing(async () => prompt("API key of this server"));

const input = document.getElementById("text");
let asked = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;  // never HTML
  return made;
}

function show(view) {
  const section = element("section");
  const n = view.pieces.length;
  section.append(element("h2", "", view.name.split("/").pop()));
  const average = n ? (view.n_bytes / n).toFixed(2) : "0";
  section.append(element("div", "numbers", `${n} token${n === 1 ? "" : "s"} · ${average} bytes per token`));
  const text = element("div", "text"), ids = element("div", "ids");
  view.pieces.forEach((piece, i) => {
    const kind = piece.is_special ? "special" : "c" + i % 4;
    const shown = element("span", "token " + kind, piece.shown);
    const id = element("span", piece.is_special ? "special" : "", String(piece.id));
    shown.title = String(piece.id);
    id.title = piece.shown;
    for (const one of [shown, id]) {
      one.addEventListener("mouseenter", () => { shown.classList.add("on"); id.classList.add("on"); });
      one.addEventListener("mouseleave", () => { shown.classList.remove("on"); id.classList.remove("on"); });
    }
    text.append(shown);
    if (piece.ends_line) text.append(element("br"));
    ids.append(id, " ");
  });
  section.append(text, ids);
  return section;
}

async function update() {
  const mine = ++asked;
  const error = document.getElementById("error");
  try {
    const text = input.value.toWellFormed ? input.value.toWellFormed() : input.value;
    const content = await call("tokens", { text });
    if (mine !== asked) return;  // a newer text is on its way
    document.getElementById("views").replaceChildren(...content.map(show));
    error.textContent = "";
  } catch (problem) {
    if (mine === asked) error.textContent = "No answer: " + problem.message;
  }
}

let timer;
input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, 100); });
update();
