// One column of Compare: what it is to run, its text beside the first column's, and its figures.
import { announce } from "./announce.js";
import { nats, perplexity } from "./card.js";
import { difference, parts } from "./difference.js";
import { button, el, iconButton } from "./dom.js";
import { count, duration, facts, megabytes, number } from "./facts.js";
import { follower } from "./follow.js";
import { icon } from "./icons.js";
import { Run, summary } from "./run.js";
import { DRAWN, PRESETS, describe, sampling } from "./settings.js";

export const PYTORCH = "pytorch";
const SETTINGS = { own: "As set", Greedy: "Greedy", ...Object.fromEntries(Object.keys(PRESETS).map((name) => [name, name])) };
const ENDS = { stop: "Finished", length: "Length reached", context: "Context full", incomplete: "Cut by the length", cancelled: "Stopped" };

/** A column. `kept` is what a reload brings back: precision, settings, tokens as [text, id], figures. */
export class Column {
  constructor(kept, { place, onChange, onUse, onRemove }) {
    this.precision = kept.precision;
    this.settings = kept.settings in SETTINGS ? kept.settings : "own";
    this.tokens = kept.tokens ?? [];
    this.figures = kept.figures ?? (this.tokens.length ? { finish_reason: "cancelled" } : null);
    this.run = null;
    this.isWaiting = false;
    this.build(place, { onChange, onUse, onRemove });
  }

  toJSON() {
    const { precision, settings, tokens, figures } = this;
    return { precision, settings, tokens, figures };
  }

  /** The sampling to send: the tab's own, or with a preset in place of how it draws. */
  sampling() {
    const own = sampling("compare");
    if (this.settings === "own") return own;
    const rest = Object.fromEntries(Object.entries(own).filter(([name]) => !DRAWN.includes(name)));
    return { ...rest, ...(this.settings === "Greedy" ? { temperature: 0 } : PRESETS[this.settings]) };
  }

  get title() {
    const precision = this.precision === PYTORCH ? "PyTorch" : this.precision;
    return this.settings === "own" ? precision : `${precision}, ${this.settings}`;
  }

  build(place, { onChange, onUse, onRemove }) {
    const changed = () => {
      this.precision = this.choice.value;
      this.settings = this.settingsChoice.value;
      this.clear();
      onChange();
    };
    this.choice = el("select", { "aria-label": `Precision of column ${place}`, on: { change: changed } });
    this.settingsChoice = el(
      "select",
      { "aria-label": `Settings of column ${place}`, on: { change: changed } },
      Object.entries(SETTINGS).map(([value, label]) => new Option(label, value)),
    );
    this.settingsChoice.value = this.settings;
    this.own = this.settingsChoice.options[0];
    this.offer(null);
    this.text = el("div", { class: "lane-text", tabindex: "0", role: "region", "aria-label": `Text of column ${place}` });
    this.scroll = follower(this.text);
    this.state = el("p", { class: "lane-state" });
    this.list = el("dl", { class: "figures" });
    this.use = button("Use this one", onUse, { class: "small use" });
    this.remove = onRemove && iconButton(icon("close"), `Remove column ${place}`, onRemove, { class: "small" });
    const head = el("header", {}, this.choice, this.settingsChoice, this.remove);
    const foot = el("footer", {}, this.state, this.list, this.use);
    this.element = el("article", { class: "lane", "aria-label": `Column ${place}` }, head, this.text, foot);
  }

  /** Offer the precisions, and PyTorch once the card says whether it is there. */
  offer(known) {
    const options = facts.precisions.map(({ name, summary: title }) => Object.assign(new Option(name, name), { title }));
    const missing = known?.pytorch.missing;
    if (known)
      options.push(
        Object.assign(new Option(missing ? "PyTorch: not here" : "PyTorch", PYTORCH), { disabled: Boolean(missing), title: missing ?? "" }),
      );
    else if (this.precision === PYTORCH) options.push(new Option("PyTorch", PYTORCH));
    this.choice.replaceChildren(...options);
    if (!options.some(({ value, disabled }) => value === this.precision && !disabled)) this.precision = facts.precision;
    this.choice.value = this.precision;
  }

  clear() {
    this.tokens = [];
    this.figures = null;
  }

  /** Run to the end or until it is stopped; `drawn` is told of every change. */
  async go(wish, seed, drawn) {
    this.isWaiting = false;
    const mine = (this.run = new Run(
      "/page/compare",
      { ...wish, precision: this.precision, sampling: { ...this.sampling(), seed } },
      { onTokens: (tokens) => this.tokens.push(...tokens), onChange: drawn, say: () => {} },
    ));
    const figures = await mine.finish();
    this.run = null;
    this.figures = figures;
    if (figures.error) announce(`${this.title}: ${figures.error}`);
    drawn();
    return figures;
  }

  /** Show the column beside the first one (null for the first itself). */
  draw(first, { known, fastest, isBusy, isUsed }) {
    const found = first?.tokens.length && this.tokens.length ? difference(first, this) : null;
    const [same, token, rest] = parts(this, found);
    const mark = token.trimStart() || token.replace("\n", "↵\n");
    const space = token.slice(0, token.length - mark.length);
    const nothing = this.run || this.isWaiting ? "" : `What ${this.title} makes of the prompt.`;
    this.text.replaceChildren(
      ...(this.tokens.length
        ? [
            same,
            space,
            mark && el("mark", { title: `Column 1: ${shown(first.tokens[found.tokens]?.[0])}` }, mark),
            rest && el("span", { class: "after" }, rest),
          ]
        : [el("span", { class: "nothing-yet" }, nothing)]
      ).filter(Boolean),
    );
    if (this.run) this.scroll.grown();
    this.state.replaceChildren(...this.says(first, found));
    this.state.classList.toggle("error", Boolean(this.figures?.error));
    this.list.replaceChildren(...this.figureList(known, fastest));
    this.element.classList.toggle("running", Boolean(this.run));
    this.own.textContent = `${describe("compare")}, as set`;
    for (const control of [this.choice, this.settingsChoice, this.remove].filter(Boolean)) control.disabled = isBusy;
    this.use.classList.toggle("absent", this.precision === PYTORCH);
    this.use.textContent = isUsed ? "In use" : "Use this one";
    this.use.classList.toggle("in-use", isUsed);
  }

  says(first, found) {
    if (this.isWaiting) return ["Waits for its turn"];
    if (this.run) return [this.run.line().slice(0, 2).join(" · ")];
    if (!this.figures) return [first ? "" : "The others are held against this one"];
    if (this.figures.error) return [this.figures.error];
    const end = `${ENDS[this.figures.finish_reason] ?? ""} · ${summary(this.figures)[0]}`;
    return found ? [el("strong", {}, relation(first, this, found)), el("span", {}, end)] : [end];
  }

  figureList(known, fastest) {
    const speed = this.run ? this.run.speed() : this.figures?.tokens_per_second;
    const row =
      this.precision === PYTORCH
        ? known && { ...known.reference, kl: 0, file_bytes: known.pytorch.bytes }
        : known?.precisions[this.precision];
    const bytes = row?.file_bytes ?? facts.precisions.find(({ name }) => name === this.precision)?.bytes;
    const meter = el("span", { class: "meter", "aria-hidden": "true" }, el("i"));
    meter.firstChild.style.width = `${fastest && speed ? (100 * speed) / fastest : 0}%`;
    return [
      figure("tokens/s", speed && number(speed >= 10 ? Math.round(speed) : Number(speed.toFixed(1))), meter),
      figure("to first token", this.figures?.first_token_seconds && duration(this.figures.first_token_seconds)),
      figure("of weights", bytes && megabytes(bytes)),
      figure(
        "KL, nats",
        row?.kl !== undefined && nats(row.kl),
        null,
        "From PyTorch’s distribution to this one’s, a mean over tokens: 0 is the same",
      ),
      figure(
        "perplexity",
        row?.perplexity && perplexity(row.perplexity),
        null,
        "On the text that the bundle was compared on: lower is better",
      ),
    ];
  }
}

function figure(label, value, below = null, title = null) {
  return el("div", { title }, el("dt", {}, label, below), el("dd", { class: value ? null : "none" }, value || "–"));
}

function relation(first, column, { kind, tokens }) {
  const same = tokens ? `The same for ${count(tokens, "token")}, then` : "From the first token on";
  if (kind === "ends") return `The same for ${count(tokens, "token")}, then it ends.`;
  if (kind === "same") return column.run ? "The same so far." : `All ${count(tokens, "token")} are the same.`;
  const [ours, theirs] = [column.tokens[tokens]?.[0], first.tokens[tokens]?.[0]];
  if (!ours) return `${same} another.`;
  return theirs ? `${same} ${shown(ours)} for ${shown(theirs)}.` : `${same} ${shown(ours)}, where column 1 ends.`;
}

/** A token's text, in words. */
const shown = (text) => (text ? `“${text.trim() || text.replaceAll("\n", "↵")}”` : "nothing");
