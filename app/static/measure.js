// Measure here: how fast the precision in use is on the server, with those who use it beside.
import { announce } from "./announce.js";
import { button, el } from "./dom.js";
import { number } from "./facts.js";
import { show } from "./run.js";
import { stream } from "./stream.js";
import { load, save } from "./store.js";

const SECONDS = 20;

/** The section, which keeps its rows over a reload. */
export function openMeasure(precision) {
  let rows = load("measure", []);
  let abort = null;
  let begun = 0;
  let timer = null;
  const main = button("", () => (abort ? stop() : go()), { id: "measure-go" });
  const status = el("div", { class: "status", id: "measure-status" });
  const progress = el("progress", { max: String(SECONDS), value: "0", "aria-label": "Seconds measured", hidden: true });
  const table = el("div", { class: "wide-table", role: "region", tabindex: "0", "aria-label": "What was measured here", hidden: true });
  const element = el(
    "div",
    { class: "measure" },
    el("h3", {}, "Measure here"),
    el("div", { class: "measure-line" }, main, status),
    progress,
    table,
  );
  draw();
  return { element, draw, stop };

  function stop() {
    abort?.abort();
  }

  async function go() {
    const measured = precision();
    rows = rows.filter((row) => row.precision !== measured);
    abort = new AbortController();
    begun = performance.now();
    announce("Begun");
    say(["Measuring…"]);
    timer = setInterval(tick, 250);
    draw();
    let end = null;
    try {
      for await (const event of stream("/page/measure", { precision: measured }, abort.signal)) take(event);
    } catch (error) {
      end = abort.signal.aborted ? "Stopped" : error.message;
    }
    clearInterval(timer);
    const isError = Boolean(end) && !abort.signal.aborted;
    abort = null;
    save("measure", rows);
    draw();
    if (end) say([end], isError);
    announce(end ?? "Measured");
  }

  function take(event) {
    if (event.loading) say([`Opening ${event.loading}…`]);
    if (!event.row) return;
    if (!rows.some(({ precision: name }) => name === event.row.precision)) begun = performance.now();
    rows.push(event.row);
    draw();
  }

  function tick() {
    const seconds = Math.min(SECONDS, (performance.now() - begun) / 1000);
    progress.value = seconds;
  }

  function say(parts, isError = false) {
    show(status, parts, isError);
  }

  function draw() {
    main.textContent = abort ? "Stop" : `Measure ${precision()} for ${SECONDS} s`;
    main.classList.toggle("primary", Boolean(abort));
    main.classList.toggle("stop", Boolean(abort));
    progress.hidden = !abort;
    const names = [...new Set(rows.map((row) => row.precision))];
    table.hidden = !names.length;
    const last = rows.at(-1);
    if (abort && last)
      say([
        "Measuring…",
        `${number(rows.filter((row) => row.precision === last.precision).length)} texts`,
        last.others ? `${number(last.others)} beside it` : null,
      ]);
    else if (!abort)
      status.replaceChildren(
        el(
          "em",
          {},
          last ? "The median of the texts of each" : "A long prompt and 64 new tokens, again and again, beside what others ask for",
        ),
      );
    const head = ["Precision", "Prompt, tokens/s", "New, tokens/s", "Range", "Texts"];
    table.replaceChildren(
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((name) => el("th", { scope: "col" }, name)),
          ),
        ),
        el(
          "tbody",
          {},
          names.map((name) =>
            summaryRow(
              name,
              rows.filter((row) => row.precision === name),
            ),
          ),
        ),
      ),
    );
  }
}

function summaryRow(name, rows) {
  const speeds = rows.map((row) => row.decode_tokens_per_second).filter(Boolean);
  const whole = (value) => (value ? number(Math.round(value)) : "–");
  const range = speeds.length > 1 ? `${whole(Math.min(...speeds))}–${whole(Math.max(...speeds))}` : "–";
  const cells = [
    whole(median(rows.map((row) => row.prefill_tokens_per_second).filter(Boolean))),
    whole(median(speeds)),
    range,
    number(rows.length),
  ];
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name),
    cells.map((value) => el("td", {}, value)),
  );
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
