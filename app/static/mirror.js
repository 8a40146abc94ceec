// What lies behind the sheet's text field, letter under letter: the tint of new text, and lines under unlikely tokens.
import { el } from "./dom.js";

const DOUBTS = [[0.01, "doubt-3"], [0.05, "doubt-2"], [0.15, "doubt-1"]]; // below this probability

/** How unlikely a token was, as a class, or null. */
export const doubt = ({ p }) => DOUBTS.find(([limit]) => p < limit)?.[1] ?? null;

/** The layer; `element` lies behind the field. */
export class Mirror {
  constructor() {
    this.element = el("div", { class: "sheet mirror", "aria-hidden": "true" });
    this.fresh = null;
  }

  /** Draw a passage, tinted from a position on. */
  draw(passage, freshFrom, hasCertainty) {
    this.hasCertainty = hasCertainty;
    this.fresh = el("span", { class: "fresh" });
    const old = document.createDocumentFragment();
    this.put(old, passage, 0, freshFrom);
    this.put(this.fresh, passage, freshFrom, passage.text.length);
    // A text field keeps a line for the caret after a line break; so does this.
    this.end = document.createTextNode("\u200b");
    this.element.replaceChildren(old, this.fresh, this.end);
    this.drawn = passage.text.length;
  }

  /** Draw what has come at the passage's end since. */
  grow(passage) {
    this.put(this.fresh, passage, this.drawn, passage.text.length);
    this.drawn = passage.text.length;
  }

  put(parent, { text, marks }, from, to) {
    let at = from;
    if (this.hasCertainty) {
      for (const mark of marks) {
        const kind = mark.start >= from && mark.end <= to && doubt(mark);
        if (!kind) continue;
        parent.append(text.slice(at, mark.start), this.token(text, mark, kind));
        at = mark.end;
      }
    }
    if (at < to) parent.append(text.slice(at, to));
  }

  /** A token, without the space before it: the line stands under its word. */
  token(text, { start, end }, kind) {
    const word = text.slice(start, end);
    const space = word.length - word.trimStart().length;
    const span = el("span", { class: `doubt ${kind}`, data: { start: String(start) } }, word.slice(space));
    const whole = document.createDocumentFragment();
    whole.append(word.slice(0, space), span);
    return whole;
  }

  /** The underlined token at a point of the screen, behind the field. */
  at(x, y) {
    return document.elementsFromPoint(x, y).find((one) => one.classList.contains("doubt") && this.element.contains(one)) ?? null;
  }

  /** Where a mark is drawn. */
  box({ start, end }) {
    const walker = document.createTreeWalker(this.element, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    let at = 0;
    let isBegun = false;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (!isBegun && start < at + node.length) {
        range.setStart(node, start - at);
        isBegun = true;
      }
      if (isBegun && end <= at + node.length) {
        range.setEnd(node, end - at);
        break;
      }
      at += node.length;
    }
    const boxes = [...range.getClientRects()].filter(({ width }) => width > 0);
    return boxes.at(-1) ?? range.getBoundingClientRect();
  }
}
