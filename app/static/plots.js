// Plots in SVG, without a library: points, bars, lines. The figures stand in a table beside each; a plot is one picture.
import { el } from "./dom.js";
import { number } from "./facts.js";
import { svg } from "./icons.js";

const WIDTH = 300;
const HEIGHT = 180;
const FRAME = { left: 44, right: 12, top: 8, bottom: 24 };

/** A picture with its heading. `told` is what it shows, in words. */
function figure(title, told, shapes, { height = HEIGHT, width = WIDTH } = {}) {
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": `${title}. ${told}` },
    ...shapes,
  );
  return el("figure", {}, el("figcaption", {}, title), picture);
}

const label = (text, x, y, attributes = {}) => svg("text", { x: round(x), y: round(y), ...attributes }, text);
const round = (value) => Number(value.toFixed(1));
const line = (x1, y1, x2, y2, name) => svg("line", { x1: round(x1), y1: round(y1), x2: round(x2), y2: round(y2), class: name });

/** From values to places. */
function scale(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from || 1)) * (end - start);
}

/** Round numbers within a range: 1, 2 or 5 times a power of ten apart. */
function ticks(from, to, wanted) {
  const raw = (to - from || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((times) => times * power >= raw) * power;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step / 1e6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const powerOfTen = (power) =>
  power >= -3 ? String(10 ** power) : `10⁻${[...String(-power)].map((digit) => SUPERSCRIPTS[digit]).join("")}`;

/** Points by size and divergence: KL on a logarithmic axis, where what is only rounding stands at the foot. */
export function scatterPlot(title, points, names) {
  const powers = points.filter(({ y }) => y > 1e-6).map(({ y }) => Math.log10(y));
  const low = Math.floor(Math.min(...powers, -3)) - (points.some(({ y }) => y <= 1e-6) ? 1 : 0);
  const high = Math.max(Math.ceil(Math.max(...powers, low + 1)), low + 2);
  const most = Math.max(...points.map(({ x }) => x)) * 1.12;
  const x = scale(0, most, FRAME.left, WIDTH - FRAME.right);
  const y = scale(low, high, HEIGHT - FRAME.bottom, FRAME.top);
  const at = (point) => Math.max(point.y > 0 ? Math.log10(point.y) : low, low);
  const shapes = [];
  for (let power = low; power <= high; power += 1) {
    const isFoot = power === low && points.some((point) => point.y <= 1e-6);
    shapes.push(line(FRAME.left, y(power), WIDTH - FRAME.right, y(power), "grid"));
    shapes.push(label(isFoot ? "0" : powerOfTen(power), FRAME.left - 8, y(power) + 4, { class: "end" }));
  }
  for (const size of ticks(0, most, 4)) shapes.push(label(SHORT.format(size), x(size), HEIGHT - FRAME.bottom + 17, { class: "middle" }));
  shapes.push(
    ...points.map((point) =>
      svg("circle", { cx: round(x(point.x)), cy: round(y(at(point))), r: 5, class: point.isChosen ? "mark chosen" : "mark" }),
    ),
  );
  shapes.push(...named(points.map((point) => ({ ...point, left: x(point.x), top: y(at(point)) }))));
  const told = points
    .map((point) => `${point.name}: ${number(Math.round(point.x * 10) / 10)} ${names.x}, ${Number(point.y.toPrecision(2))} ${names.y}`)
    .join("; ");
  return figure(title, told, shapes);
}

/** The names of points, each beside its own and clear of the others. */
function named(points) {
  const taken = [];
  return [...points]
    .sort((one, other) => one.top - other.top)
    .map(({ name, left, top, isChosen }) => {
      const isRight = left < WIDTH * 0.66;
      let height = top + 4;
      while (taken.some((other) => Math.abs(other.height - height) < 14 && Math.abs(other.left - left) < 90)) height += 14;
      taken.push({ left, height });
      return label(name, left + (isRight ? 10 : -10), height, { class: `name ${isRight ? "" : "end"} ${isChosen ? "chosen" : ""}`.trim() });
    });
}

/** Bars, longest value to the edge; the value stands at the end of each. */
export function barPlot(title, rows) {
  const step = 30;
  const left = 68;
  const most = Math.max(...rows.map(({ value }) => value));
  const right = WIDTH - 14 - 7 * number(Math.round(most)).length; // the longest value has room behind its bar
  const shapes = rows.flatMap(({ name, value, isChosen }, index) => {
    const top = 8 + index * step;
    const width = Math.max(2, ((right - left) * value) / most);
    return [
      label(name, left - 10, top + 12, { class: `end name ${isChosen ? "chosen" : ""}`.trim() }),
      svg("rect", { x: left, y: top, width: round(width), height: 16, rx: 3, class: isChosen ? "bar chosen" : "bar" }),
      label(number(Math.round(value)), left + width + 8, top + 12, { class: "value" }),
    ];
  });
  const told = rows.map(({ name, value }) => `${name}: ${number(Math.round(value))}`).join("; ");
  return figure(title, told, shapes, { height: 8 + rows.length * step });
}

/** The losses of a run: means of training steps, and what was held out. */
export function lossPlot(title, training, heldOut) {
  const all = [...training, ...heldOut];
  const steps = all.map(([step]) => step);
  const values = all.map(([, loss]) => loss).sort((one, other) => one - other);
  // The first steps fall from the logarithm of the vocabulary: they would press the rest flat.
  const high = Math.max(values[Math.floor(values.length * 0.97)], ...heldOut.map(([, loss]) => loss)) * 1.02;
  const low = values[0] * 0.98;
  // As wide as it is shown, so that its letters are as large as others.
  const width = matchMedia("(max-width: 760px)").matches ? 360 : 920;
  const left = 36;
  const right = width - FRAME.right;
  const x = scale(0, Math.max(...steps), left, right);
  const y = scale(low, high, HEIGHT - FRAME.bottom, FRAME.top);
  const path = (points) =>
    points.map(([step, loss], index) => `${index ? "L" : "M"}${round(x(step))} ${round(y(Math.min(loss, high)))}`).join("");
  const shapes = ticks(low, high, 4).flatMap((loss) => [
    line(left, y(loss), right, y(loss), "grid"),
    label(String(loss), left - 8, y(loss) + 4, { class: "end" }),
  ]);
  shapes.push(
    ...ticks(0, Math.max(...steps), 6).map((step) => label(SHORT.format(step), x(step), HEIGHT - FRAME.bottom + 17, { class: "middle" })),
  );
  shapes.push(svg("path", { d: path(training), class: "training" }), svg("path", { d: path(heldOut), class: "held-out" }));
  shapes.push(
    ...heldOut.map(([step, loss]) => svg("circle", { cx: round(x(step)), cy: round(y(Math.min(loss, high))), r: 3, class: "mark chosen" })),
  );
  const heldLast = heldOut.length ? `; held out at last ${heldOut.at(-1)[1].toFixed(2)}` : "";
  const told = `Training from ${training[0][1].toFixed(2)} to ${training.at(-1)[1].toFixed(2)}${heldLast}`;
  const made = figure(title, told, shapes, { width });
  made.append(
    el(
      "p",
      { class: "keys" },
      el("span", { class: "key-training" }, "training"),
      heldOut.length ? el("span", { class: "key-held-out" }, "held out") : null,
    ),
  );
  return made;
}
