// Markdown as a model writes it, into elements. Nothing is parsed as HTML; links lead to the web or to mail alone.
import { copy, el, iconButton } from "./dom.js";
import { icon } from "./icons.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*).*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])\s*(\1\s*){2,}$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8; // quotes and lists within each other

const sources = new WeakMap(); // of each block that an element shows

/** Show a text that grows: blocks that have not changed stay as they are, selected or scrolled as they may be. */
export function updateMarkdown(element, text) {
  const lines = text.split("\n");
  let shown = element.firstElementChild;
  let at = 0;
  while (at < lines.length) {
    const [block, next] = nextBlock(lines, at, 0);
    const source = lines.slice(at, next).join("\n");
    at = next;
    if (!block) continue;
    if (shown && sources.get(shown) === source) {
      shown = shown.nextElementSibling;
      continue;
    }
    sources.set(block, source);
    element.insertBefore(block, shown);
    const old = shown;
    shown = old?.nextElementSibling ?? null;
    old?.remove();
  }
  while (shown) {
    const old = shown;
    shown = old.nextElementSibling;
    old.remove();
  }
}

/** The elements of a text. */
export function markdown(text, depth = 0) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const [block, next] = nextBlock(lines, at, depth);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

function nextBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [el(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2])), at + 1];
  if (RULE.test(line)) return [el("hr"), at + 1];
  if (QUOTE.test(line) && depth < DEEPEST) return quote(lines, at, depth);
  if (ITEM.test(line) && depth < DEEPEST) return list(lines, at, depth);
  if (line.includes("|") && DELIMITERS.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) return table(lines, at);
  return paragraph(lines, at);
}

function code(lines, at, [, mark, language]) {
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end++;
  const text = lines.slice(at + 1, end).join("\n");
  const copier = iconButton(icon("copy"), "Copy code", () => copy(text, copier), { class: "small" });
  const head = el("div", { class: "code-head" }, el("span", {}, language || "text"), copier);
  return [el("div", { class: "code" }, head, el("pre", { tabindex: "0" }, el("code", {}, text))), end + 1];
}

function quote(lines, at, depth) {
  const inner = [];
  while (at < lines.length && QUOTE.test(lines[at])) inner.push(QUOTE.exec(lines[at++])[1]);
  return [el("blockquote", {}, markdown(inner.join("\n"), depth + 1)), at];
}

function list(lines, at, depth) {
  const [, indent, sign] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(sign);
  const items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || /\d/.test(item[2]) !== isOrdered) break;
    const inner = [item[3]];
    at++;
    while (at < lines.length && belongs(lines, at, indent.length)) inner.push(lines[at++].replace(new RegExp(`^\\s{0,${indent.length + 3}}`), ""));
    const blocks = markdown(inner.join("\n").trimEnd(), depth + 1);
    // The text of a short item needs no paragraph of its own.
    items.push(el("li", {}, blocks[0]?.tagName === "P" ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks));
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) at++;
  }
  const start = isOrdered ? Number.parseInt(sign, 10) : 1;
  return [el(isOrdered ? "ol" : "ul", start === 1 ? {} : { start: String(start) }, items), at];
}

/** Whether a line is part of the item that began with this indent. */
function belongs(lines, at, indent) {
  const line = lines[at];
  if (!line.trim()) return /^\s{2,}\S/.test(lines[at + 1] ?? "") && leading(lines[at + 1]) > indent + 1;
  if (leading(line) > indent + 1) return true;
  return !begins(line) && lines[at - 1].trim() !== "";
}

const leading = (line) => line.length - line.trimStart().length;

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table(lines, at) {
  const head = cells(lines[at]);
  const rows = [];
  for (at += 2; at < lines.length && lines[at].includes("|"); at++) rows.push(cells(lines[at]));
  const made = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, inline(cell))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, head.map((_, index) => el("td", {}, inline(row[index] ?? "")))))),
  );
  return [el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, made), at];
}

function paragraph(lines, at) {
  const inner = [];
  while (at < lines.length && lines[at].trim() && (inner.length === 0 || !begins(lines[at]))) inner.push(lines[at++]);
  const parts = inner.flatMap((line, index) => [...(index ? [el("br")] : []), ...inline(line.trimEnd())]);
  return [el("p", {}, parts), at];
}

const begins = (line) => FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || ITEM.test(line) || RULE.test(line);

// Code first, for nothing in it has a meaning; then links, bold, italic and struck-out text.
const INLINE = /(`+)([\s\S]+?)\1(?!`)|\[([^\]\n]+)\]\(([^()\s]+(?:\([^()\s]*\))?)\)|(\*\*|__)(?=\S)([\s\S]+?\S?)\5|([*_])(?=[^\s*_])([\s\S]*?[^\s*_]|[^\s*_])\7(?![\w*])|~~(?=\S)([\s\S]+?)~~|(https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?])|\\([\\`*_{}[\]()#+\-.!|>~])/;

function inline(text) {
  const parts = [];
  for (;;) {
    const found = INLINE.exec(text);
    if (!found) break;
    const [whole, , code, label, target, , bold, sign, italic, struck, address, escaped] = found;
    const isWithinWord = sign === "_" && /\w$/.test(text.slice(0, found.index));
    if (found.index) parts.push(text.slice(0, found.index));
    text = text.slice(found.index + whole.length);
    if (isWithinWord) parts.push(whole);
    else if (code !== undefined) parts.push(el("code", {}, code.trim() || code));
    else if (label !== undefined) parts.push(link(target, inline(label), whole));
    else if (bold !== undefined) parts.push(el("strong", {}, inline(bold)));
    else if (italic !== undefined) parts.push(el("em", {}, inline(italic)));
    else if (struck !== undefined) parts.push(el("s", {}, inline(struck)));
    else if (address !== undefined) parts.push(link(address, [address], whole));
    else parts.push(escaped);
  }
  if (text) parts.push(text);
  return parts;
}

function link(target, label, source) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return source;
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}
