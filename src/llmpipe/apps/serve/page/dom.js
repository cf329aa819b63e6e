// Making elements. Text always goes in as text: nothing here, or anywhere on this page, parses HTML.

/** Make an element; `on…` properties are listeners, `class` and others are attributes. */
export function h(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "value") made.value = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

export function button(label, onclick, properties) {
  return h("button", { type: "button", onclick, ...properties }, label);
}

/** Tell people who listen to the page instead of looking at it. */
export function say(text) {
  byId("said").textContent = text;
}

let toastTimer;

/** Show a short message, with a button if there is something to be done about it. */
export function toast(text, action) {
  const box = byId("toast");
  box.replaceChildren(h("span", {}, text));
  if (action) {
    box.append(button(action.label, () => { box.replaceChildren(); action.run(); }));
  }
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.replaceChildren(), action ? 8000 : 5000);
}
