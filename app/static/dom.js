// Elements, made without HTML: what a text holds is never interpreted.

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

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Copy a text, also where the page is not served over HTTPS; says so on the button for a moment. */
export async function copy(text, source) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = el("textarea", { class: "visually-hidden", value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    source.focus();
  }
  const label = source.dataset.label ?? source.textContent;
  source.dataset.label = label;
  source.textContent = "Copied";
  setTimeout(() => (source.textContent = label), 1200);
}

/** Keep a scroller at its end while it grows, unless the reader has scrolled away from it. */
export function follower(scroller, onChange = () => {}) {
  let atEnd = true;
  const measure = () => {
    const now = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
    if (now !== atEnd) onChange((atEnd = now));
  };
  scroller.addEventListener("scroll", measure, { passive: true });
  return {
    grown: () => (atEnd ? scroller.scrollTo({ top: scroller.scrollHeight }) : measure()),
    toEnd: () => {
      atEnd = true;
      scroller.scrollTo({ top: scroller.scrollHeight });
      onChange(true);
    },
  };
}

/** Let a text field grow with its text. */
export function growing(field, most = 220) {
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, most)}px`;
  };
  field.addEventListener("input", grow);
  requestAnimationFrame(grow);
  return grow;
}
