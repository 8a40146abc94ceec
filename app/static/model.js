// Model: what it is, how exact and fast its precisions are, its tokens, and how to have the same text without this page.
import { card, nats, perplexity } from "./card.js";
import { button, el } from "./dom.js";
import { facts, megabytes, number, short } from "./facts.js";
import { openMeasure } from "./measure.js";
import { openPlayground } from "./playground.js";
import { barPlot, lossPlot, scatterPlot } from "./plots.js";
import { openReproduce } from "./reproduce.js";

const PARTS = [
  ["embed_tokens", "Token embeddings"],
  ["embed_positions", "Position embeddings"],
  ["attention", "Attention"],
  ["mlp", "Feed-forward layers"],
  ["norms", "Norms"],
  ["lm_head", "Output head"],
];

/** Build the tab. What the server has to tell is asked for when the tab is first shown. */
export function openModel(panel, precision) {
  const about = el("div", { class: "about" });
  const playground = openPlayground();
  const reproduce = openReproduce(precision);
  const page = el("div", { class: "model" }, about, playground.element, reproduce.element);
  panel.append(el("div", { class: "scroller", tabindex: "-1" }, page));
  const select = document.getElementById("precision");
  const measure = openMeasure(precision);
  let known = null;
  select.addEventListener("change", () => {
    measure.draw();
    if (known) draw();
    if (!panel.hidden) reproduce.shown();
  });
  return { stop: () => measure.stop(), focus: () => panel.firstChild.focus({ preventScroll: true }), shown };

  async function shown() {
    playground.shown();
    reproduce.shown();
    try {
      known ??= await card();
      draw();
    } catch (error) {
      about.replaceChildren(
        el(
          "p",
          { class: "hint" },
          `What the server knows of the model did not come. ${error.message} `,
          button("Try again", shown, { class: "small" }),
        ),
      );
    }
  }

  function draw() {
    about.replaceChildren(
      ...[identity(known), precisions(known, precision(), measure.element), known.losses && losses(known.losses)].filter(Boolean),
    );
  }
}

function identity(known) {
  const versions = Object.entries(known.versions).map(([name, version]) => `${name} ${version.split("+")[0]}`);
  const rows = [
    ["Source", known.source],
    ["Licence", known.license ?? "not stated"],
    ["Context", `${number(known.context_tokens)} tokens`],
    ["Vocabulary", `${number(known.vocabulary_tokens)} tokens`],
    ["Layers", number(known.layers)],
    ["Made with", versions.join(", ")],
  ].filter(([, value]) => value);
  const list = el(
    "dl",
    { class: "rows" },
    rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
  return el("section", { class: "identity" }, el("h2", {}, facts.name), el("div", { class: "two" }, list, parts(known.parameters)));
}

/** The parameters by part: a bar that is cut, and what each piece of it is. */
function parts(parameters) {
  const total = parameters.total;
  if (!total) return null;
  const shown = PARTS.filter(([key]) => parameters[key]).sort(([one], [other]) => parameters[other] - parameters[one]);
  const bar = el("div", { class: "stack", "aria-hidden": "true" });
  const list = el("ul", { class: "legend" });
  shown.forEach(([key, label], index) => {
    const share = parameters[key] / total;
    const piece = el("i", { class: `part-${index}` });
    piece.style.flexGrow = share;
    bar.append(piece);
    const percent = share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
    list.append(
      el(
        "li",
        {},
        el("i", { class: `part-${index}` }),
        el("span", {}, label),
        el("span", {}, short(parameters[key])),
        el("span", {}, percent),
      ),
    );
  });
  const heading = el("h3", {}, `${number(total)} parameters`);
  const tied = parameters.lm_head ? null : el("p", { class: "hint" }, "The output head shares the token embeddings.");
  return el("div", { class: "parts" }, heading, bar, list, tied);
}

const COLUMNS = [
  ["Size", (row) => megabytes(row.file_bytes)],
  ["KL, nats", (row) => row.kl !== undefined && nats(row.kl)],
  ["Same likeliest token", (row) => row.top1_agreement !== undefined && `${(100 * row.top1_agreement).toFixed(1)} %`],
  ["Perplexity", (row) => row.perplexity && perplexity(row.perplexity)],
  ["Prompt, tokens/s", (row) => row.prefill_tokens_per_second && number(Math.round(row.prefill_tokens_per_second))],
  ["New, tokens/s", (row) => row.decode_tokens_per_second && number(Math.round(row.decode_tokens_per_second))],
];

function precisions(known, chosen, measure) {
  const rows = Object.entries(known.precisions);
  const isCompared = rows.some(([, row]) => row.kl !== undefined);
  const columns = isCompared ? COLUMNS : COLUMNS.slice(0, 1);
  const head = el(
    "tr",
    {},
    [["Precision"], ...columns].map(([name]) => el("th", { scope: "col" }, name)),
  );
  const summaries = Object.fromEntries(facts.precisions.map(({ name, summary }) => [name, summary]));
  const body = rows.map(([name, row]) =>
    el(
      "tr",
      { class: name === chosen ? "chosen" : null, title: summaries[name] },
      el("th", { scope: "row" }, name, name === chosen ? [" ", el("span", { class: "tag" }, "in use")] : null),
      columns.map(([, value]) => el("td", {}, value(row) || "–")),
    ),
  );
  const table = el(
    "div",
    { class: "wide-table", tabindex: "0", role: "region", "aria-label": "The precisions" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, body)),
  );
  return el("section", {}, el("h2", {}, "Precisions"), about(known, isCompared), table, isCompared ? plots(rows, chosen) : null, measure);
}

function about(known, isCompared) {
  if (!isCompared) {
    return el(
      "p",
      { class: "hint" },
      "This bundle holds no comparison with its checkpoint. One is made at export: ",
      el("code", {}, "python -m export run CHECKPOINT --out BUNDLE"),
    );
  }
  const { text, tokens } = known.compared_on;
  const { name, perplexity: own } = known.reference;
  const where = [tokens && `${number(tokens)} tokens`, text && `of ${text}`].filter(Boolean).join(" ");
  const reference = name && own ? ` ${name} itself has a perplexity of ${perplexity(own)} there.` : "";
  return el(
    "p",
    { class: "hint" },
    `Each held against ${name ?? "the reference"} on ${where || "the same text"} when the bundle was made.${reference}`,
  );
}

function plots(rows, chosen) {
  const compared = rows.filter(([, row]) => row.kl !== undefined);
  const points = compared.map(([name, row]) => ({ name, x: row.file_bytes / 1e6, y: Math.max(row.kl, 0), isChosen: name === chosen }));
  const bars = (figure) =>
    compared.filter(([, row]) => row[figure]).map(([name, row]) => ({ name, value: row[figure], isChosen: name === chosen }));
  return el(
    "div",
    { class: "plots" },
    scatterPlot("KL in nats, by size in MB", points, { x: "MB", y: "nats" }),
    barPlot("New tokens a second, at export", bars("decode_tokens_per_second")),
    barPlot("Prompt tokens a second, at export", bars("prefill_tokens_per_second")),
  );
}

function losses({ training, held_out: heldOut }) {
  const last = heldOut.at(-1) ?? training.at(-1);
  const told = `After ${number(last[0])} steps: ${last[1].toFixed(3)} nats a token${heldOut.length ? " on held-out text" : ""}.`;
  return el(
    "section",
    {},
    el("h2", {}, "Training"),
    el("p", { class: "hint" }, told),
    el("div", { class: "plots one" }, lossPlot("Loss in nats a token, by step", training, heldOut)),
  );
}
