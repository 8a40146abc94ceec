// The drawings on buttons: lines on a 20 × 20 grid, in the colour of the text.
const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  copy: "M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7Z",
  check: "m4 10.5 4 4 8-9",
  again: "M16 10a6 6 0 1 1-1.8-4.3M16 3v3.5h-3.5",
  edit: "M12.5 4.5 15.5 7.5 7 16l-3.7.7.7-3.7ZM11 6l3 3",
  undo: "M7.5 4 4 7.5 7.5 11M4 7.5h7.5a4.5 4.5 0 0 1 0 9H8",
  before: "M12 5l-5 5 5 5",
  after: "M8 5l5 5-5 5",
  send: "M10 16V4.5M5 9l5-5 5 5",
  stop: "M6 6h8v8H6Z",
  down: "M10 4v11.5M5 11l5 5 5-5",
  link: "M8.5 11.5a3 3 0 0 0 4.2 0l2.9-2.9a3 3 0 0 0-4.2-4.2l-1 1M11.5 8.5a3 3 0 0 0-4.2 0l-2.9 2.9a3 3 0 0 0 4.2 4.2l1-1",
  save: "M10 3v9M6 8.5l4 4 4-4M4 16.5h12",
  certainty: "M3 6h9M15 6h2M3 11h4M10 11h7M3 16h7M10.5 14.5q1-1 2 0t2 0 2 0",
  sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4a2 2 0 1 0 0 4 2 2 0 0 0 0-4ZM8 12a2 2 0 1 0 0 4 2 2 0 0 0 0-4Z",
  close: "M5 5l10 10M15 5 5 15",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6 16 16M16 4l-1.4 1.4M5.4 14.6 4 16",
  moon: "M16.5 11.5A7 7 0 0 1 8.5 3.5a7 7 0 1 0 8 8Z",
  add: "M10 4v12M4 10h12",
};

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A drawing; its button says in words what it does. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 20 20", class: "icon-drawing", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}
