// Elements, made without HTML: what a text holds is never interpreted.
import { icon, svg } from "./icons.js";

/** An element with properties (`class`, `on`, `data`, attributes) and children (elements, strings, null for none). */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [kind, handler] of Object.entries(value)) element.addEventListener(kind, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string" && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button with a label; `aria-label` where only a sign is shown. */
export function button(label, onClick, properties = {}) {
  return el("button", { type: "button", ...properties, on: { click: onClick } }, label);
}

export { svg };

/** A button that shows a drawing (see icons.js) and is named in words; `keys` are told in its tooltip. */
export function iconButton(drawing, label, onClick, { keys, ...properties } = {}) {
  return button(drawing, onClick, {
    ...properties,
    class: `quiet icon ${properties.class ?? ""}`.trim(),
    "aria-label": label,
    title: keys ? `${label} (${keys})` : label,
  });
}

/** Copy a text, also where the page is not served over HTTPS. Returns whether that worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const source = document.activeElement;
    const field = el("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    source?.focus();
    return isCopied;
  }
}

/** Copy a text, and say so on the button for a moment. */
export async function copy(text, source) {
  const isCopied = await copyText(text);
  if (source.dataset.told) return;
  const shown = [...source.childNodes];
  const name = source.getAttribute("aria-label");
  source.dataset.told = "yes";
  const told = isCopied ? "Copied" : "Not copied";
  // A drawing becomes a check mark of its size, so that nothing moves; words become words.
  if (shown[0] instanceof SVGElement && shown.length === 1) source.replaceChildren(icon(isCopied ? "check" : "close"));
  else source.replaceChildren(told);
  if (name) source.setAttribute("aria-label", told);
  setTimeout(() => {
    source.replaceChildren(...shown);
    if (name) source.setAttribute("aria-label", name);
    delete source.dataset.told;
  }, 1400);
}
