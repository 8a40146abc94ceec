// Compare: one prompt in two or three columns, one after another, so that none slows another down.
import { announce } from "./announce.js";
import { card } from "./card.js";
import { Column, PYTORCH } from "./column.js";
import { button, el } from "./dom.js";
import { facts } from "./facts.js";
import { growing } from "./follow.js";
import { icon } from "./icons.js";
import { show } from "./run.js";
import { drawAs, isDrawnAs, onSettings } from "./settings.js";
import { load, save } from "./store.js";

const EXAMPLES = {
  question: ["What is gravity, in simple words?", "Write a short poem about the sea.", "Why is the sky blue?"],
  text: ["Once upon a time, there was a little girl named Lily.", "The old lighthouse keeper had one rule:"],
};
const MOST = 3;
const MOST_BYTES = 1e9; // more is not opened unasked
const SEED_LIMIT = 2 ** 31;

/** Build the tab. */
export function openCompare(panel, precision, choosePrecision) {
  const kept = load("compare", {});
  let asQuestion = !facts.no_chat && (kept.asQuestion ?? true);
  let seed = kept.seed ?? null;
  let running = null; // the column under way
  let isStopped = false;
  let known = null;
  let columns = [];
  let isDue = false; // a drawing, with the next frame

  const shelf = el("div", { class: "lanes" });
  const adder = button([icon("add")], add, { class: "add quiet icon", "aria-label": "Add a column", title: "Add a column" });
  const chips = el("div", { class: "chips" });
  const field = el("textarea", { rows: "1", "aria-label": "Prompt" });
  const grow = growing(field, 160);
  const main = button("Compare", () => (running ? stop() : go()), { class: "primary", id: "compare-go" });
  const status = el("div", { class: "status", id: "compare-status" });
  const kinds = el("div", { class: "kinds", role: "radiogroup", "aria-label": "The prompt is", on: { keydown: turn } });
  kinds.append(kind("question", "Question"), kind("text", "Text"));
  kinds.hidden = Boolean(facts.no_chat);
  panel.append(
    el("div", { class: "scroller compare" }, shelf),
    el("div", { class: "dock" }, chips, el("div", { class: "composer" }, field, main), el("div", { class: "dock-line" }, status, kinds)),
  );
  field.value = load("compare:draft", "");
  field.addEventListener("input", () => (save("compare:draft", field.value), draw()));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), running || go());
  });
  panel.addEventListener("keydown", (event) => event.key === "Escape" && running && stop());
  document.getElementById("precision").addEventListener("change", draw);
  onSettings(draw);

  build(kept.columns?.length > 1 ? kept.columns.slice(0, MOST) : first());
  draw();
  return { stop, focus: () => field.focus(), shown };

  /** The most exact precision beside the page's own, or beside the next one. */
  function first() {
    const names = facts.precisions.map(({ name }) => name);
    const exact = facts.precisions.find(({ name, bytes }) => name === "fp32" && bytes < MOST_BYTES)?.name ?? facts.precision;
    const pair = [...new Set([exact, facts.precision, ...names])].slice(0, 2);
    if (pair.length === 1) pair.push(pair[0]);
    return pair.map((name, index) => ({ precision: name, settings: index && pair[0] === name ? "Greedy" : "own" }));
  }

  function build(all) {
    columns = all.map((one, index) => {
      const place = index + 1;
      const column = new Column(one, {
        place,
        onChange: changed,
        onUse: () => use(column),
        onRemove: place > 2 ? () => remove(column) : null,
      });
      if (known) column.offer(known);
      return column;
    });
    shelf.replaceChildren(...columns.map(({ element }) => element), columns.length < MOST ? adder : "");
    shelf.dataset.count = columns.length;
  }

  async function shown() {
    grow();
    draw();
    try {
      known = await card();
      for (const column of columns) if (!column.run) column.offer(known);
      draw();
    } catch {
      // The banner says that the server is gone; the figures come with the next visit to the tab.
    }
  }

  function add() {
    const used = new Set(columns.map((column) => column.precision));
    const next = facts.precisions.find(({ name }) => !used.has(name))?.name ?? facts.precision;
    build([...columns.map((column) => column.toJSON()), { precision: next, settings: columns.at(-1).settings }]);
    changed();
    columns.at(-1).choice.focus();
    columns.at(-1).element.scrollIntoView({ inline: "nearest", block: "nearest" });
  }

  function remove(column) {
    build(columns.filter((other) => other !== column).map((other) => other.toJSON()));
    changed();
    adder.focus();
  }

  function changed() {
    keep();
    draw();
  }

  function keep() {
    save("compare", { columns: columns.map((column) => column.toJSON()), asQuestion, seed });
  }

  async function go() {
    const text = asQuestion ? field.value.trim() : field.value;
    if (running || (asQuestion && !text)) return field.focus();
    const own = columns[0].sampling().seed;
    seed = own ?? Math.floor(Math.random() * SEED_LIMIT);
    isStopped = false;
    for (const column of columns) {
      column.clear();
      column.isWaiting = true;
    }
    announce("Begun");
    for (const column of columns) {
      if (isStopped) break;
      running = column;
      draw();
      reveal(column);
      const figures = await column.go({ text, as_question: asQuestion }, seed, soon);
      isStopped ||= Boolean(figures.is_gone);
      keep();
    }
    running = null;
    for (const column of columns) column.isWaiting = false;
    changed();
    if (!columns.some((column) => column.figures?.error)) announce(isStopped ? "Stopped" : "Every column has ended");
  }

  function stop() {
    isStopped = true;
    running?.run?.stop();
  }

  /** On a phone the columns lie beside each other, and one is in sight. */
  function reveal({ element }) {
    const { left, right } = element.getBoundingClientRect();
    if (left < 0 || right > innerWidth) shelf.scrollTo({ left: element.offsetLeft - shelf.offsetLeft - 16 });
  }

  function soon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  }

  function draw() {
    const speeds = columns.map((column) => column.run?.speed() ?? column.figures?.tokens_per_second ?? 0);
    const scene = { known, fastest: Math.max(...speeds), isBusy: Boolean(running) };
    for (const [index, column] of columns.entries()) column.draw(index ? columns[0] : null, { ...scene, isUsed: isUsed(column) });
    main.textContent = running ? (running.run?.isQueued ? "Leave" : "Stop") : "Compare";
    main.classList.toggle("stop", Boolean(running));
    adder.disabled = Boolean(running);
    field.placeholder = asQuestion ? "A question for each column" : "A text to continue";
    for (const radio of kinds.children) {
      const isChosen = (radio.dataset.kind === "question") === asQuestion;
      radio.setAttribute("aria-checked", String(isChosen));
      radio.tabIndex = isChosen ? 0 : -1;
    }
    chips.hidden = field.value !== "" || Boolean(running);
    if (!chips.hidden) chips.replaceChildren(...EXAMPLES[asQuestion ? "question" : "text"].map(chip));
    show(status, line());
  }

  function chip(text) {
    return button(text, () => ((field.value = text), save("compare:draft", text), grow(), field.focus(), go()), { class: "chip" });
  }

  function line() {
    const place = columns.indexOf(running) + 1;
    if (running) return [`Column ${place} of ${columns.length}`, ...(running.run?.line() ?? [])];
    const hasText = columns.some((column) => column.tokens.length);
    return [hasText ? `Seed ${seed} in each column` : "One seed, one after another"];
  }

  function isUsed(column) {
    return column.precision === precision() && isDrawnAs(column.sampling());
  }

  function use(column) {
    if (column.precision === PYTORCH) return;
    drawAs(column.sampling());
    choosePrecision(column.precision);
    announce(`${column.title} is used in Write and Chat now`);
  }

  function kind(name, label) {
    return el("button", { type: "button", role: "radio", data: { kind: name }, on: { click: () => chooseKind(name) } }, label);
  }

  function chooseKind(name) {
    if (running) return;
    asQuestion = name === "question";
    changed();
    kinds.querySelector('[aria-checked="true"]').focus();
  }

  function turn(event) {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    chooseKind(asQuestion ? "text" : "question");
  }
}
