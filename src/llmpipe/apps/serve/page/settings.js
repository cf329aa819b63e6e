// How answers are drawn: kept in this browser, sent with every request. An empty field is the server's choice.

import { button, h } from "./dom.js";

const NUMBERS = [
  // name, label, step, least, most, what it does
  ["temperature", "Temperature", 0.05, 0, 5, "0 takes the likeliest token always, 1 samples from the model as it is"],
  ["top_k", "Top-k", 1, 1, 100000, "keep the k likeliest tokens"],
  ["top_p", "Top-p", 0.01, 0.01, 1, "keep the likeliest tokens that reach p together"],
  ["min_p", "Min-p", 0.01, 0, 1, "keep tokens at least this fraction as likely as the likeliest"],
  ["max_tokens", "Most tokens", 1, 1, 1000000, "of one answer"],
  ["seed", "Seed", 1, 0, 2 ** 47, "the same seed gives the same answer; empty is another one every time"],
];

const DEFAULTS = { temperature: 0.8, system: "", tools: {} };

export function load() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem("settings")) };
  } catch {
    return { ...DEFAULTS };
  }
}

/** The fields of a request that the settings ask for; `seed` is always there, so that it can be noted. */
export function sampling(settings) {
  const fields = { seed: Math.floor(Math.random() * 2 ** 32) };
  for (const [name] of NUMBERS) if (settings[name] !== undefined) fields[name] = settings[name];
  return fields;
}

/** The `tools` of a request: none while everything the server has is wanted. */
export function toolFields(settings, available) {
  const wanted = available.filter((name) => settings.tools[name] !== false);
  return wanted.length === available.length ? {} : { tools: wanted.map((type) => ({ type })) };
}

/** Open the drawer; changes count at once. */
export function open(dialog, settings, available, changed) {
  const keep = () => {
    try {
      localStorage.setItem("settings", JSON.stringify(settings));
    } catch { /* storage is off: they last as long as the page */ }
    changed();
  };
  const fields = NUMBERS.map(([name, label, step, min, max, what]) => {
    const input = h("input", { type: "number", id: `set-${name}`, step, min, max, value: settings[name] ?? "", placeholder: "default", "aria-describedby": `what-${name}` });
    input.addEventListener("input", () => {
      if (input.value === "") delete settings[name];
      else if (input.validity.valid || input.validity.stepMismatch) settings[name] = input.valueAsNumber;
      keep();
    });
    return h("div", { class: "field" }, h("label", { for: input.id }, label), input, h("p", { class: "faint", id: `what-${name}` }, what));
  });
  const system = h("textarea", { id: "set-system", rows: 4, value: settings.system, placeholder: "none" });
  system.addEventListener("input", () => { settings.system = system.value; keep(); });
  const tools = available.map((name) => {
    const box = h("input", { type: "checkbox", id: `tool-${name}`, checked: settings.tools[name] !== false });
    box.addEventListener("change", () => { settings.tools[name] = box.checked; keep(); });
    return h("div", { class: "check" }, box, h("label", { for: box.id }, { python: "Python", search: "Search" }[name] ?? name));
  });
  dialog.replaceChildren(
    h("div", { class: "dialog-head" }, h("h2", { id: "settings-title" }, "Settings"), button("Close", () => dialog.close(), { class: "quiet" })),
    h("div", { class: "field" }, h("label", { for: "set-system" }, "System message"), system),
    h("fieldset", {}, h("legend", {}, "Tools"), tools.length ? tools : h("p", { class: "faint" }, "This server runs none.")),
    ...fields,
    button("Back to the defaults", () => {
      for (const name of Object.keys(settings)) delete settings[name];
      Object.assign(settings, structuredClone(DEFAULTS));
      keep();
      open(dialog, settings, available, changed);
    }, { class: "quiet" }));
  if (!dialog.open) dialog.showModal();
}
