// The list of what the model might have written in a token's place.
import { el } from "./dom.js";
import { doubt } from "./mirror.js";

const LINGER = 250; // From the token to the list there is a gap to cross.
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.00095 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
/** A token's text for the eye: spaces and line breaks can be seen. */
const visible = (text) => text.replace(/^ /, "").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "␣";

/**
 * The list over a sheet.
 * @param paper what it is placed in; `mirror` tells where tokens are; `sheet` gets the focus back.
 * @param passageNow gives the passage; `choose(mark, text)` writes a rival in a token's place.
 */
export class Rivals {
  constructor({ paper, mirror, sheet, passageNow, choose }) {
    Object.assign(this, { paper, mirror, sheet, passageNow, choose });
    this.element = el("div", { class: "rivals", role: "menu", hidden: true });
    this.element.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.element.addEventListener("pointerleave", () => this.leave());
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("focusout", (event) => {
      if (this.isKeyed && !this.element.contains(event.relatedTarget)) this.close();
    });
    paper.append(this.element);
  }

  /** Show the list of a mark. By the keyboard, it gets the focus. */
  open(mark, { isKeyed = false } = {}) {
    clearTimeout(this.timer);
    if (this.mark === mark && !isKeyed) return;
    this.mark = mark;
    this.isKeyed = false; // What has the focus is replaced: that is no leaving.
    const word = this.passageNow().text.slice(mark.start, mark.end);
    this.element.setAttribute("aria-label", `In place of “${visible(word)}”, ${percent(mark.p)}`);
    this.element.replaceChildren(
      el("div", { class: "rival chosen", role: "presentation" }, this.row(word, mark.p)),
      ...mark.rivals.map(([text, p]) =>
        el(
          "button",
          {
            type: "button",
            class: "rival",
            role: "menuitem",
            tabindex: "-1",
            disabled: !text,
            "aria-label": `${visible(text)}, ${percent(p)}`,
            on: { click: () => this.take(text) },
          },
          this.row(text, p),
        ),
      ),
    );
    this.element.hidden = false;
    this.place();
    this.isKeyed = isKeyed;
    if (isKeyed) this.items()[0]?.focus();
  }

  row(text, p) {
    const bar = el("span", { class: "share" });
    bar.style.setProperty("--share", `${Math.max(1, 100 * p)}%`);
    return [el("span", { class: "word" }, visible(text)), el("span", { class: "percent" }, percent(p)), bar];
  }

  place() {
    const box = this.mirror.box(this.mark);
    const paper = this.paper.getBoundingClientRect();
    const width = this.element.offsetWidth;
    const left = Math.min(Math.max(box.left - paper.left - 12, 8), paper.width - width - 8);
    this.element.style.left = `${left}px`;
    // Above the token where there is no room below it.
    const view = this.paper.parentElement.getBoundingClientRect();
    const isAbove = box.bottom + this.element.offsetHeight + 12 > view.bottom && box.top - this.element.offsetHeight > view.top;
    this.element.style.top = `${isAbove ? box.top - paper.top - this.element.offsetHeight - 4 : box.bottom - paper.top + 4}px`;
  }

  /** The pointer has gone: so does the list, a moment later. */
  leave() {
    clearTimeout(this.timer);
    if (!this.isKeyed) this.timer = setTimeout(() => this.close(), LINGER);
  }

  close() {
    clearTimeout(this.timer);
    const hadFocus = this.element.contains(document.activeElement);
    this.isKeyed = false;
    this.mark = null;
    this.element.hidden = true;
    if (hadFocus) this.sheet.focus();
  }

  get isOpen() {
    return !this.element.hidden;
  }

  take(text) {
    const { mark } = this;
    this.close();
    this.choose(mark, text);
  }

  items() {
    return [...this.element.querySelectorAll("button:not(:disabled)")];
  }

  key(event) {
    const items = this.items();
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") this.close();
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") this.neighbour(event.key === "ArrowRight" ? 1 : -1);
    else if (to !== undefined) items[to % items.length]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The list of the next underlined token, or of the one before. */
  neighbour(step) {
    const { marks } = this.passageNow();
    const unlikely = marks.filter((mark) => doubt(mark));
    const next = step > 0 ? unlikely.find(({ start }) => start > this.mark.start) : unlikely.findLast(({ start }) => start < this.mark.start);
    if (!next) return;
    this.sheet.setSelectionRange(next.start, next.start);
    this.open(next, { isKeyed: true });
  }
}
