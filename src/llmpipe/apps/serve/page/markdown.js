// Markdown to elements: what models write most of, and nothing that could do harm.
//
// Text becomes text nodes; HTML in it is shown as it is typed. Links lead to http, https and mailto alone;
// pictures become links, so that looking at an answer loads nothing.

import { button, h } from "./dom.js";

/** Return elements for a text. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

const MAX_DEPTH = 8;  // of quotes and lists in each other: a hostile text could ask for thousands

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +)(?=\S)/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function blocks(lines, depth) {
  const made = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    let match;
    if (!line.trim()) i++;
    else if ((match = FENCE.exec(line))) [i] = fence(lines, i, match, made);
    else if ((match = HEADING.exec(line))) {
      made.push(h(`h${Math.min(6, match[1].length + 2)}`, {}, inline(match[2])));
      i++;
    } else if (RULE.test(line)) {
      made.push(h("hr"));
      i++;
    } else if (QUOTE.test(line) && depth < MAX_DEPTH) {
      const start = i;
      while (i < lines.length && QUOTE.test(lines[i])) i++;
      const inner = lines.slice(start, i).map((quoted) => quoted.replace(QUOTE, ""));
      made.push(h("blockquote", {}, blocks(inner, depth + 1)));
    } else if (ITEM.test(line) && depth < MAX_DEPTH) i = list(lines, i, made, depth);
    else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && TABLE_RULE.test(lines[i + 1])) {
      i = table(lines, i, made);
    } else i = paragraph(lines, i, made);
  }
  return made;
}

function fence(lines, i, match, made) {
  const end = match[1];
  const code = [];
  for (i++; i < lines.length && !lines[i].trimEnd().endsWith(end); i++) code.push(lines[i]);
  const text = code.join("\n");
  const copy = button("Copy", () => navigator.clipboard.writeText(text), { class: "quiet" });
  made.push(h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, match[2] || "text"), copy), h("pre", { tabindex: "0" }, h("code", {}, text))));
  return [i + 1];
}

function list(lines, i, made, depth) {
  const isOrdered = (line) => /\d/.test(ITEM.exec(line)?.[2] ?? "");
  const ordered = isOrdered(lines[i]);
  const items = [];
  const start = Number.parseInt(ITEM.exec(lines[i])[2], 10);
  while (i < lines.length) {
    const match = ITEM.exec(lines[i]);
    if (!match || isOrdered(lines[i]) !== ordered || RULE.test(lines[i])) break;
    const width = match[0].length;
    const inner = [lines[i].slice(width)];
    for (i++; i < lines.length; i++) {
      const indent = /^ */.exec(lines[i])[0].length;
      const isBlank = !lines[i].trim();
      if (isBlank && !/^ {2,}\S/.test(lines[i + 1] ?? "")) break;
      if (!isBlank && (indent < 2 || (ITEM.test(lines[i]) && indent < Math.min(width, 2)))) break;
      inner.push(lines[i].slice(Math.min(indent, width)));
    }
    while (i < lines.length && !lines[i].trim() && ITEM.test(lines[i + 1] ?? "")) i++;
    const content = blocks(inner, depth + 1);
    const only = content.length && content[0].tagName === "P" ? [...content[0].childNodes, ...content.slice(1)] : content;
    items.push(h("li", {}, only));
  }
  made.push(h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, items));
  return i;
}

function table(lines, i, made) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const head = cells(lines[i]);
  const rows = [];
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
  const row = (tag, values) => h("tr", {}, head.map((_, k) => h(tag, {}, inline(values[k] ?? ""))));
  made.push(h("div", { class: "table", tabindex: "0" },
    h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, rows.map((values) => row("td", values))))));
  return i;
}

function paragraph(lines, i, made) {
  const start = i;
  const ends = (line) => !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line);
  const opens = (line) => QUOTE.test(line) || ITEM.test(line);
  do i++; while (i < lines.length && !ends(lines[i]) && !opens(lines[i]));
  const children = [];
  lines.slice(start, i).forEach((line, k) => {
    if (k) children.push(h("br"));  // models mean their line breaks
    children.push(inline(line.trim()));
  });
  made.push(h("p", {}, children));
  return i;
}

// One alternative per construct; the first that matches at the earliest place wins.
const INLINE = new RegExp([
  /(?<code>(?<ticks>`+)(?<codeText>[^`]+|[^`].*?[^`])\k<ticks>(?!`))/,
  /\\(?<escaped>[\\`*_{}[\]()#+.!<>|~-])/,
  /!?\[(?<label>[^\][]{0,500})\]\((?<target>[^()\s]{1,2000})\)/,
  /\*\*(?<strong>\S(?:[^*]{0,2000}?\S)?)\*\*/,
  /(?<![\w*])\*(?<em>[^\s*](?:[^*]{0,2000}?[^\s*])?)\*(?!\w)/,
  /(?<![\w_])_(?<em2>[^\s_](?:[^_]{0,2000}?[^\s_])?)_(?!\w)/,
  /~~(?<del>[^~]{1,2000})~~/,
  /(?<url>https?:\/\/[^\s<>()"'`]{1,2000}[^\s<>()"'`.,;:!?*_~])/,
].map((part) => part.source).join("|"), "g");

function inline(text) {
  const made = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    made.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    const found = match.groups;
    if (found.code !== undefined) made.push(h("code", {}, found.codeText.trim() || found.codeText));
    else if (found.escaped) made.push(found.escaped);
    else if (found.target) made.push(link(found.target, found.label || found.target));
    else if (found.strong) made.push(h("strong", {}, inline(found.strong)));
    else if (found.em ?? found.em2) made.push(h("em", {}, inline(found.em ?? found.em2)));
    else if (found.del) made.push(h("del", {}, inline(found.del)));
    else made.push(link(found.url, found.url));
  }
  made.push(text.slice(last));
  return made;
}

function link(target, label) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return label;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return label;
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href }, label);
}
