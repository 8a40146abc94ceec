// A text in tokens: coloured pieces, whose ids are told where the pointer or the focus is.
import { el } from "./dom.js";
import { count, facts, number } from "./facts.js";
import { growing } from "./follow.js";
import { ask } from "./stream.js";
import { load, save } from "./store.js";

const FIRST = "Tokens are pieces of text: common words whole, rare ones in parts. 12345 😀 café";
const DELAY = 180;
const COLOURS = 5;

/** The section. */
export function openPlayground() {
  let asQuestion = load("tokens:question", false);
  let withIds = load("tokens:ids", false);
  let asked = 0;
  let timer = null;
  const field = el("textarea", { rows: "2", maxlength: "20000", "aria-label": "Text to be cut into tokens", spellcheck: "false" });
  field.value = load("tokens:draft", FIRST);
  const grow = growing(field, 180);
  const pieces = el("div", { class: "pieces", role: "listbox", "aria-label": "Tokens", "aria-orientation": "horizontal" });
  const told = el("p", { class: "told", "aria-live": "off" });
  const counts = el("p", { class: "hint counts" });
  const options = el(
    "div",
    { class: "checks" },
    check("Show ids", withIds, (is) => (save("tokens:ids", (withIds = is)), pieces.classList.toggle("with-ids", is))),
    facts.no_chat ? null : check("As a chat message", asQuestion, (is) => (save("tokens:question", (asQuestion = is)), cut())),
  );
  pieces.classList.toggle("with-ids", withIds);
  field.addEventListener("input", () => {
    save("tokens:draft", field.value);
    clearTimeout(timer);
    timer = setTimeout(cut, DELAY);
  });
  pieces.addEventListener("keydown", move);
  for (const kind of ["focusin", "pointerover", "click"])
    pieces.addEventListener(kind, ({ target }) => tell(target.closest("[role=option]")));
  const element = el(
    "section",
    { class: "playground" },
    el("h2", {}, "Tokens"),
    field,
    el("div", { class: "counts-line" }, counts, options),
    pieces,
    told,
  );
  return { element, shown: () => (grow(), asked || cut()) };

  async function cut() {
    const mine = ++asked;
    try {
      const found = await ask("/page/tokenize", { text: field.value, as_question: asQuestion });
      if (mine === asked) draw(found);
    } catch (error) {
      if (mine === asked) counts.textContent = error.message;
    }
  }

  function draw({ pieces: found, tokens, characters, bytes }) {
    pieces.replaceChildren(...found.flatMap(option));
    pieces.hidden = told.hidden = !found.length;
    told.textContent = matchMedia("(pointer: coarse)").matches ? "Tap a piece to see its ids." : "Point at a piece, or use the arrow keys.";
    counts.textContent = found.length
      ? [
          count(tokens, "token"),
          count(characters, "character"),
          count(bytes, "byte"),
          `${(characters / tokens).toFixed(1)} characters a token`,
        ].join(" · ")
      : "No text, no tokens";
  }

  function option([text, ids, isSpecial], index) {
    const colour = isSpecial ? "special" : `colour-${index % COLOURS}`;
    const label = `${isSpecial ? "Special token " : ""}${text}, ${ids.length > 1 ? "ids" : "id"} ${ids.join(", ")}`;
    const made = el(
      "span",
      { role: "option", class: `piece ${colour}`, "aria-label": label, "aria-selected": "false", tabindex: index ? "-1" : "0" },
      el("span", {}, visible(text)),
    );
    made.append(el("small", { "aria-hidden": "true" }, ids.join(" ")));
    made.about = { text, ids, isSpecial };
    // A newline is told by a sign, and breaks the line of pieces as it does the text.
    return text.endsWith("\n") && !isSpecial ? [made, el("span", { class: "break", role: "presentation" })] : made;
  }

  function tell(one) {
    if (!one) return;
    for (const other of pieces.querySelectorAll('[aria-selected="true"]')) other.setAttribute("aria-selected", "false");
    one.setAttribute("aria-selected", "true");
    const { text, ids, isSpecial } = one.about;
    const size = new TextEncoder().encode(text).length;
    const kind = isSpecial ? "special token" : `${count([...text].length, "character")}, ${count(size, "byte")}`;
    told.replaceChildren(
      el("code", {}, JSON.stringify(text).slice(1, -1) || "(nothing)"),
      ` ${ids.length > 1 ? `ids ${ids.join(", ")}: ${number(ids.length)} tokens together` : `id ${ids[0]}`} · ${kind}`,
    );
  }

  function move(event) {
    const all = [...pieces.querySelectorAll("[role=option]")];
    const at = all.indexOf(document.activeElement);
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: beside(all, at, 1),
      ArrowUp: beside(all, at, -1),
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (to === undefined || !all[to]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  }
}

/** The piece in the next line or the one before, nearest to where one is now. */
function beside(all, at, step) {
  const from = all[at]?.getBoundingClientRect();
  if (!from) return -1;
  const middle = (box) => (box.left + box.right) / 2;
  const lines = all
    .map((one, index) => ({ index, box: one.getBoundingClientRect() }))
    .filter(({ box }) => (box.top - from.top) * step > from.height / 2);
  const top = step > 0 ? Math.min(...lines.map(({ box }) => box.top)) : Math.max(...lines.map(({ box }) => box.top));
  const line = lines.filter(({ box }) => Math.abs(box.top - top) < from.height / 2);
  line.sort((one, other) => Math.abs(middle(one.box) - middle(from)) - Math.abs(middle(other.box) - middle(from)));
  return line[0]?.index ?? -1;
}

function check(label, value, onChange) {
  const box = el("input", { type: "checkbox", on: { change: () => onChange(box.checked) } });
  box.checked = value;
  return el("label", {}, box, label);
}

const SIGNS = { " ": "·", "\n": "↵", "\t": "→", "\r": "␍" };

/** A text whose spaces can be seen. */
function visible(text) {
  const shown = text.split(/([ \n\t\r])/).filter(Boolean);
  if (!shown.length) return [el("i", {}, "∅")];
  return shown.map((part) => (part in SIGNS ? el("i", {}, SIGNS[part]) : part));
}
