// Write: one sheet, which the model continues from its end.
import { announce } from "./announce.js";
import { button, copy, copyText, el, iconButton } from "./dom.js";
import { refreshDrawer } from "./drawer.js";
import { count } from "./facts.js";
import { follower } from "./follow.js";
import { icon } from "./icons.js";
import { isLinked, linkTo, takeLink } from "./link.js";
import { Mirror, doubt } from "./mirror.js";
import { addToken, edited, join, markAt, passage, slice } from "./passage.js";
import { Rivals } from "./rivals.js";
import { Run, show } from "./run.js";
import { adopt, sampling } from "./settings.js";
import { load, save } from "./store.js";

const EXAMPLES = ["Once upon a time, there was a little girl named Lily.", "The old lighthouse keeper had one rule:", "Dear diary, today", "Dear neighbours,"];
const MOST_TURNS = 50; // that Undo takes back
const KEPT_TURNS = 3; // over a reload
const HOVER = 120;
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const CONTROL = isMac ? "⌘" : "Ctrl";
const keys = (label) => el("kbd", { "aria-hidden": "true" }, label);

/** Build the tab. `choosePrecision` takes a name, of a link. */
export function openWrite(panel, precision, choosePrecision) {
  const isFromLink = isLinked();
  const tab = new Write(panel, precision, choosePrecision);
  if (isFromLink) tab.followLink();
  return { isFromLink, stop: () => tab.run?.stop(), focus: () => tab.sheet.focus({ preventScroll: true }), shown: () => tab.shown() };
}

/**
 * A turn is one continuation: `previous` is the text before it, `before` what it follows (shorter than `previous` where a
 * rival was chosen), `texts` are its alternatives, `seeds` theirs, and `at` the one in the sheet.
 */
class Write {
  constructor(panel, precision, choosePrecision) {
    Object.assign(this, { panel, precision, choosePrecision, run: null, undone: [] });
    this.now = load("write:sheet", passage());
    this.turns = load("write:turns", []);
    this.hasCertainty = load("write:certainty", false);
    this.build();
    this.draw();
    this.rest();
  }

  // What is on the screen

  build() {
    this.sheet = el("textarea", {
      class: "sheet",
      id: "sheet",
      "aria-label": "Your text",
      "aria-describedby": "sheet-hint",
      placeholder: "Begin a text, and let the model continue it.",
      spellcheck: "false",
    });
    this.mirror = new Mirror();
    this.examples = el(
      "div",
      { class: "examples" },
      el("p", { class: "hint" }, "Or begin with"),
      el("div", { class: "chips" }, EXAMPLES.map((text) => button(text, () => this.begin(text), { class: "chip" }))),
    );
    const hint = `${CONTROL}+Enter continues the text, Escape stops. Alt+Down lists the rivals of the token at the caret, where certainty is shown.`;
    const paper = el("div", { class: "paper" }, this.mirror.element, this.sheet, this.examples, el("p", { class: "visually-hidden", id: "sheet-hint" }, hint));
    const scroller = el("div", { class: "scroller" }, paper);
    this.latest = button([icon("down"), "Latest"], () => this.scroll.toEnd(), { class: "latest small", hidden: true });
    this.scroll = follower(scroller, (atEnd) => (this.latest.hidden = atEnd));
    this.rivals = new Rivals({
      paper,
      mirror: this.mirror,
      sheet: this.sheet,
      passageNow: () => this.now,
      choose: (mark, text) => this.branch(mark, text),
    });
    this.status = el("div", { class: "status", id: "write-status" });
    this.panel.append(scroller, el("div", { class: "dock" }, this.latest, this.bar(), el("div", { class: "dock-line" }, this.status)));
    this.listen();
  }

  bar() {
    this.main = button("", () => (this.run ? this.run.stop() : this.go()), { class: "primary", id: "continue", "aria-keyshortcuts": "Control+Enter Escape" });
    const undoKeys = isMac ? "⌘Z" : "Ctrl+Z";
    this.undo = button([icon("undo"), "Undo"], () => this.takeBack(), { class: "quiet", id: "undo", title: `Take the last continuation back (${undoKeys})` });
    this.again = button([icon("again"), "Again"], () => this.goAgain(), { class: "quiet", id: "again", title: "Another continuation in its place" });
    this.earlier = iconButton(icon("before"), "Previous alternative", () => this.flip(-1), { class: "small" });
    this.later = iconButton(icon("after"), "Next alternative", () => this.flip(1), { class: "small" });
    this.place = el("span", { class: "place" });
    this.alternatives = el("span", { class: "alternatives", role: "group", "aria-label": "Alternatives" }, this.earlier, this.place, this.later);
    this.certainty = button([icon("certainty"), "Show certainty"], () => this.toggleCertainty(), {
      class: "quiet",
      id: "certainty",
      "aria-pressed": String(this.hasCertainty),
      title: "Underline the tokens that were unlikely",
    });
    this.copier = iconButton(icon("copy"), "Copy", () => copy(this.now.text, this.copier), { id: "write-copy" });
    this.saver = iconButton(icon("save"), "Save as .txt", () => this.download(), { id: "write-save" });
    this.linker = iconButton(icon("link"), "Copy a link", () => this.link(), { id: "write-link" });
    const rest = el("div", { class: "bar-rest" }, this.undo, this.again, this.alternatives, el("span", { class: "space" }), this.certainty, this.copier, this.saver, this.linker);
    return el("div", { class: "bar" }, this.main, rest);
  }

  listen() {
    this.panel.addEventListener("keydown", (event) => this.key(event));
    this.sheet.addEventListener("input", () => this.typed());
    this.sheet.addEventListener("scroll", () => (this.sheet.scrollTop = 0)); // The paper scrolls, not the field.
    this.sheet.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.hover(event));
    this.sheet.addEventListener("pointerleave", () => (clearTimeout(this.hovering), this.rivals.leave()));
    this.sheet.addEventListener("click", (event) => this.tap(event, event));
    // On a touched token the list opens, and the keyboard of the screen does not.
    this.sheet.addEventListener("touchend", (event) => this.tap(event, event.changedTouches[0]));
  }

  key(event) {
    const isControl = event.ctrlKey || event.metaKey;
    const take = {
      Enter: isControl && (() => this.run || this.go()),
      Escape: this.run ? () => this.run.stop() : this.rivals.isOpen && (() => this.rivals.close()),
      z: isControl && this.canChange() && (event.shiftKey ? this.undone.length && (() => this.redo()) : this.turns.length && (() => this.takeBack())),
      y: isControl && this.undone.length && (() => this.redo()),
      ArrowDown: event.altKey && event.target === this.sheet && (() => this.listAtCaret()),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!take) return;
    event.preventDefault();
    take();
  }

  /** Whether the sheet is as the last continuation left it, or as Undo did. */
  canChange() {
    if (this.run) return false;
    const undone = this.undone.at(-1);
    if (undone) return this.now.text === undone.turn.previous.text;
    const turn = this.turns.at(-1);
    return Boolean(turn) && this.now.text === turn.before.text + turn.texts[turn.at].text;
  }

  /** Draw everything: the text in the field, behind it, and the buttons. */
  draw() {
    const turn = this.turns.at(-1);
    if (this.sheet.value !== this.now.text) this.sheet.value = this.now.text;
    const isFresh = turn && this.now.text === turn.before.text + turn.texts[turn.at].text;
    this.mirror.draw(this.now, isFresh ? turn.before.text.length : this.now.text.length, this.hasCertainty);
    this.buttons();
    this.keep();
  }

  buttons() {
    const turn = this.turns.at(-1);
    const isFresh = !this.run && Boolean(turn) && this.now.text === turn.before.text + turn.texts[turn.at].text;
    const isEmpty = this.now.text === "";
    const { run } = this;
    this.examples.hidden = !isEmpty || Boolean(run);
    this.undo.disabled = this.again.disabled = !isFresh;
    this.alternatives.hidden = !turn || turn.texts.length < 2 || !(isFresh || run);
    this.earlier.disabled = this.later.disabled = Boolean(run);
    this.place.textContent = turn ? `${turn.at + 1}/${turn.texts.length}` : "";
    this.copier.disabled = this.saver.disabled = this.linker.disabled = isEmpty || Boolean(run);
    this.main.classList.toggle("stop", Boolean(run));
    const label = run ? (run.isQueued ? "Leave" : "Stop") : "Continue";
    if (this.main.dataset.label !== label) {
      this.main.dataset.label = label;
      this.main.replaceChildren(...(run ? [icon("stop"), label, keys("Esc")] : [label, keys(`${CONTROL} ↵`)]));
    }
  }

  /** The status line while nothing is under way and nothing has just ended. */
  rest() {
    const words = this.now.text.trim().split(/\s+/).filter(Boolean).length;
    show(this.status, words ? [null, count(words, "word")] : []);
  }

  keep() {
    save("write:sheet", this.now);
    save("write:turns", this.turns.slice(-KEPT_TURNS));
  }

  shown() {
    this.scroll.grown();
  }

  // What the writer does

  typed() {
    this.rivals.close();
    this.now = edited(this.now, this.sheet.value);
    if (this.undone.length && this.now.text !== this.undone.at(-1).turn.previous.text) this.undone = [];
    this.draw();
    this.rest();
  }

  begin(text) {
    this.now = passage(text);
    this.go();
  }

  takeBack() {
    const turn = this.turns.pop();
    this.undone.push({ turn, text: this.now });
    this.now = turn.previous;
    this.moved("Taken back");
  }

  redo() {
    const { turn, text } = this.undone.pop();
    this.turns.push(turn);
    this.now = text;
    this.moved("Brought back");
  }

  flip(step) {
    const turn = this.turns.at(-1);
    turn.at = (turn.at + step + turn.texts.length) % turn.texts.length;
    this.now = join(turn.before, turn.texts[turn.at]);
    this.draw();
    this.rest();
    announce(`Alternative ${turn.at + 1} of ${turn.texts.length}`);
  }

  moved(told) {
    this.rivals.close();
    this.draw();
    this.rest();
    announce(told);
    this.sheet.focus({ preventScroll: true });
    this.scroll.grown();
  }

  // What the model does

  go() {
    this.undone = [];
    const turn = { previous: this.now, before: this.now, texts: [passage()], seeds: [null], at: 0 };
    this.turns = [...this.turns, turn].slice(-MOST_TURNS);
    return this.write(turn);
  }

  goAgain() {
    const turn = this.turns.at(-1);
    turn.at = turn.texts.push(passage()) - 1;
    turn.seeds.push(null);
    return this.write(turn);
  }

  /** Write a rival in a token's place, and go on from there; the text as it was is the other alternative. */
  branch({ start }, text) {
    if (this.run) return;
    const was = slice(this.now, start);
    const turn = { previous: this.now, before: slice(this.now, 0, start), texts: [was, passage(text)], seeds: [null, null], at: 1 };
    this.turns = [...this.turns, turn].slice(-MOST_TURNS);
    this.write(turn);
  }

  async write(turn) {
    const text = turn.texts[turn.at];
    const given = turn.before.text + text.text;
    const options = sampling("write");
    // With a seed of its own, another alternative would be the same one.
    if (options.seed !== undefined) options.seed += turn.at;
    const wish = { text: given, sampling: options, precision: this.precision(), certainty: this.hasCertainty };
    const run = (this.run = new Run("/page/continue", wish, {
      onStart: ({ seed }) => (turn.seeds[turn.at] = seed),
      onText: (piece) => this.grow(turn, text, () => (text.text += piece)),
      onTokens: (tokens) => this.grow(turn, text, () => tokens.forEach((token) => addToken(text, token))),
      onChange: () => (show(this.status, run.line(), run.state.figures?.error), this.buttons()),
    }));
    this.rivals.close();
    this.sheet.readOnly = true;
    if (document.activeElement !== this.sheet && this.panel.contains(document.activeElement)) this.main.focus();
    this.now = join(turn.before, text);
    this.draw();
    this.scroll.toEnd();
    const figures = await run.finish();
    this.run = null;
    this.sheet.readOnly = false;
    this.ended(turn, text, given, figures);
  }

  grow(turn, text, add) {
    add();
    this.isGrown = true;
    requestAnimationFrame(() => {
      if (!this.isGrown) return;
      this.isGrown = false;
      this.now = join(turn.before, text);
      this.sheet.value = this.now.text;
      this.mirror.grow(this.now);
      this.keep();
      this.scroll.grown();
    });
  }

  ended(turn, text, given, figures) {
    this.isGrown = false;
    this.now = join(turn.before, text);
    const isEmpty = this.now.text === given;
    if (isEmpty) this.drop(turn);
    this.draw();
    this.scroll.grown();
    if (isEmpty && figures.finish_reason === "stop") show(this.status, ["The model ends the text here", "Again, or a word more, may help"]);
  }

  /** An alternative in which nothing came is none. */
  drop(turn) {
    turn.texts.splice(turn.at, 1);
    turn.seeds.splice(turn.at, 1);
    turn.at = turn.texts.length - 1;
    const isBranch = turn.texts.length === 1 && turn.previous !== turn.before;
    if (!turn.texts.length || isBranch) this.turns.pop();
    this.now = turn.texts.length ? join(turn.before, turn.texts[turn.at]) : turn.previous;
  }

  // Certainty

  toggleCertainty() {
    this.hasCertainty = !this.hasCertainty;
    save("write:certainty", this.hasCertainty);
    this.certainty.setAttribute("aria-pressed", String(this.hasCertainty));
    this.rivals.close();
    if (!this.run) this.draw();
    if (this.hasCertainty && !this.now.marks.length && !this.run) show(this.status, ["Certainty is shown in what is written from now on"]);
    else if (!this.run) this.rest();
  }

  markOf(token) {
    return this.now.marks.find(({ start }) => start === Number(token.dataset.start)) ?? null;
  }

  hover(event) {
    clearTimeout(this.hovering);
    if (!this.hasCertainty || this.run) return;
    const token = this.mirror.at(event.clientX, event.clientY);
    this.sheet.classList.toggle("over-doubt", Boolean(token));
    if (!token) this.rivals.leave();
    else this.hovering = setTimeout(() => this.rivals.open(this.markOf(token)), HOVER);
  }

  tap(event, { clientX, clientY }) {
    if (!this.hasCertainty || this.run) return;
    const token = this.mirror.at(clientX, clientY);
    if (!token) return this.rivals.close();
    if (event.type === "touchend") event.preventDefault();
    this.rivals.open(this.markOf(token));
  }

  listAtCaret() {
    if (!this.hasCertainty || this.run) return;
    const caret = this.sheet.selectionStart;
    const mark = markAt(this.now, caret) ?? this.now.marks.findLast((one) => one.end <= caret && doubt(one));
    if (mark) this.rivals.open(mark, { isKeyed: true });
  }

  // Out of the page and into it

  download() {
    const url = URL.createObjectURL(new Blob([this.now.text], { type: "text/plain;charset=utf-8" }));
    const name = this.now.text.trim().split(/\s+/).slice(0, 6).join(" ").replace(/[^\p{L}\p{N}]+/gu, " ").slice(0, 50).trim() || "text";
    el("a", { href: url, download: `${name}.txt` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  /** A link by which the continuation in sight is written again, or what is in the sheet continued. */
  async link() {
    const turn = this.turns.at(-1);
    const isFresh = turn && this.now.text === turn.before.text + turn.texts[turn.at].text && turn.seeds[turn.at] !== null;
    const seed = isFresh ? { seed: turn.seeds[turn.at] } : {};
    const value = { text: isFresh ? turn.before.text : this.now.text, sampling: { ...sampling("write"), ...seed }, precision: this.precision() };
    try {
      const isCopied = await copyText(await linkTo(value));
      show(this.status, [isCopied ? "The link is copied" : "The browser did not let the link be copied", "it carries text, settings and seed"]);
      announce(isCopied ? "The link is copied" : "The link was not copied");
    } catch (error) {
      show(this.status, [error.message], true);
      announce(error.message);
    }
  }

  async followLink() {
    const value = await takeLink();
    if (!value) {
      show(this.status, ["The link is damaged: nothing was taken from it"], true);
      return;
    }
    const previous = this.now;
    if (previous.text && previous.text !== value.text) {
      // Undo brings the draft back that was here.
      this.turns.push({ previous, before: passage(), texts: [passage(value.text)], seeds: [null], at: 0 });
    }
    this.now = passage(value.text);
    adopt("write", value.sampling);
    refreshDrawer();
    if (typeof value.precision === "string") this.choosePrecision(value.precision);
    this.draw();
    show(this.status, ["From a link", `${CONTROL}+Enter writes on from here, with its settings and seed`]);
  }
}
