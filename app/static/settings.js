// The sampling settings of each tab, and the drawer that shows them. What is unset is the model's own.
import { el, button } from "./dom.js";
import { facts } from "./facts.js";
import { load, save } from "./store.js";

export const PRESETS = {
  Precise: { temperature: 0.2, top_p: 0.9 },
  Balanced: {},
  Wild: { temperature: 1.2, min_p: 0.03 },
};
const DRAWN = ["temperature", "top_p", "top_k", "min_p", "typical_p"]; // what a preset sets
const LENGTHS = { write: 256, chat: 1024, compare: 96 };
const FIRST = ["temperature", "max_new_tokens"]; // always in sight; the rest is Advanced
const kept = { write: load("settings:write", {}), chat: load("settings:chat", {}), compare: load("settings:compare", {}) };
const drawer = document.getElementById("drawer");
const mark = document.getElementById("drawer-mark");
let tab = "write";
let isAdvanced = load("advanced", false);
let changed = () => {};

/** Call a function whenever settings change. */
export const onSettings = (handler) => (changed = handler);

/** The default of a control in a tab. */
function defaultOf(control, of = tab) {
  if (control.value !== null || control.name !== "max_new_tokens") return control.value;
  return Math.min(LENGTHS[of], control.most);
}

/** The settings to send: those that differ from the model's own, and the length. */
export function sampling(of) {
  const length = facts.controls.find(({ name }) => name === "max_new_tokens");
  return { max_new_tokens: defaultOf(length, of), ...kept[of] };
}

/** Take settings from a link. */
export function adopt(of, values) {
  kept[of] = { ...values };
  save(`settings:${of}`, kept[of]);
  render();
}

/** How many settings differ from the default. */
export const differing = (of) => Object.keys(kept[of] ?? {}).length;

/** Show the settings of a tab in the drawer. */
export function showSettings(of) {
  tab = of in kept ? of : null;
  document.getElementById("drawer-button").hidden = tab === null;
  if (tab === null) drawer.hidden = true;
  else drawer.hidden = !load("drawer", false) || isPhone();
  render();
}

const isPhone = () => matchMedia("(max-width: 760px)").matches;

function set(name, value) {
  const control = facts.controls.find((other) => other.name === name);
  const isDefault = control ? value === defaultOf(control) : value === "" || value === null || value?.length === 0;
  if (isDefault) delete kept[tab][name];
  else kept[tab][name] = value;
  save(`settings:${tab}`, kept[tab]);
  marks();
}

function marks() {
  const many = tab ? differing(tab) : 0;
  mark.hidden = !many;
  mark.textContent = many || "";
  mark.title = many ? `${many} settings differ from the default` : "";
  for (const row of drawer.querySelectorAll("[data-setting]")) {
    row.classList.toggle("changed", row.dataset.setting in (kept[tab] ?? {}));
  }
  const preset = presetOf();
  for (const one of drawer.querySelectorAll("[data-preset]")) {
    one.setAttribute("aria-checked", String(one.dataset.preset === preset));
    one.tabIndex = one.dataset.preset === (preset ?? "Balanced") ? 0 : -1;
  }
  const reset = drawer.querySelector(".reset");
  if (reset) reset.disabled = !many;
  changed();
}

/** The preset that the settings are, or null. */
function presetOf() {
  const drawn = Object.fromEntries(Object.entries(kept[tab] ?? {}).filter(([name]) => DRAWN.includes(name)));
  const same = ([, values]) => JSON.stringify(Object.entries(values).sort()) === JSON.stringify(Object.entries(drawn).sort());
  return Object.entries(PRESETS).find(same)?.[0] ?? null;
}

/** The name of a tab's preset, for a status line. */
export function describe(of) {
  const before = tab;
  tab = of;
  const preset = presetOf();
  tab = before;
  return preset ?? "Custom";
}

function choose(preset) {
  for (const name of DRAWN) delete kept[tab][name];
  for (const [name, value] of Object.entries(PRESETS[preset])) set(name, value);
  save(`settings:${tab}`, kept[tab]);
  render();
  drawer.querySelector(`[data-preset="${preset}"]`).focus();
}

function render() {
  if (tab === null) return;
  const rows = facts.controls.map((control) => [FIRST.includes(control.name), row(control)]);
  drawer.replaceChildren(
    el(
      "div",
      { class: "drawer-head" },
      el("h2", {}, "Sampling"),
      button("Reset", reset, { class: "quiet reset" }),
      button("✕", closeDrawer, { class: "quiet icon", "aria-label": "Close sampling" }),
    ),
    el("div", { class: "presets", role: "radiogroup", "aria-label": "Preset", on: { keydown: arrows } }, Object.keys(PRESETS).map(presetButton)),
    el("p", { class: "hint" }, "Balanced is as the model’s authors set it."),
    ...rows.filter(([isFirst]) => isFirst).map(([, made]) => made),
    seedRow(),
    el(
      "details",
      { open: isAdvanced, on: { toggle: (event) => save("advanced", (isAdvanced = event.target.open)) } },
      el("summary", {}, "Advanced"),
      ...rows.filter(([isFirst]) => !isFirst).map(([, made]) => made),
      textRow("stop_strings", "Stop strings", "One a line: the text ends before any of them.", stopLines),
      textRow("json_schema", "JSON schema", "The text is JSON that this schema admits.", schemaText),
      textRow("regex", "Regular expression", "The text, as a whole, is matched by it.", (text) => text),
    ),
  );
  marks();
}

function presetButton(name) {
  return el("button", { type: "button", role: "radio", data: { preset: name }, on: { click: () => choose(name) } }, name);
}

function arrows(event) {
  const names = Object.keys(PRESETS);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const at = names.indexOf(event.target.dataset.preset);
  choose(names[(at + step + names.length) % names.length]);
}

function row(control) {
  const id = `setting-${control.name}`;
  const value = kept[tab][control.name] ?? defaultOf(control);
  const step = control.step;
  const range = el("input", { type: "range", min: String(control.least), max: String(control.most), step: String(step), "aria-label": control.label, tabindex: "-1" });
  const field = el("input", { id, type: "number", min: String(control.least), max: String(control.most), step: String(step), inputmode: "decimal", "aria-describedby": `${id}-hint` });
  range.value = field.value = value;
  const take = (source, other) => () => {
    if (source.value === "" || !source.checkValidity()) return;
    other.value = source.value;
    set(control.name, Number(source.value));
  };
  range.addEventListener("input", take(range, field));
  field.addEventListener("input", take(field, range));
  field.addEventListener("change", () => {
    const held = Math.min(Math.max(Number(field.value || defaultOf(control)), control.least), control.most);
    field.value = range.value = step === 1 ? Math.round(held) : held;
    set(control.name, Number(field.value));
  });
  return el(
    "div",
    { class: "setting", data: { setting: control.name }, title: control.meaning },
    el("label", { for: id }, control.label),
    range,
    field,
    el("p", { class: "visually-hidden", id: `${id}-hint` }, control.meaning),
  );
}

function seedRow() {
  const field = el("input", { id: "setting-seed", type: "text", inputmode: "numeric", pattern: "[0-9]*", placeholder: "a new one each time" });
  field.value = kept[tab].seed ?? "";
  field.addEventListener("input", () => {
    field.setCustomValidity(/^\d*$/.test(field.value) ? "" : "Digits only");
    if (field.checkValidity()) set("seed", field.value === "" ? null : Number(field.value));
  });
  return el("div", { class: "setting", data: { setting: "seed" } }, el("label", { for: "setting-seed" }, "Seed"), field);
}

const stopLines = (text) => text.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));

function schemaText(text) {
  if (text.trim()) JSON.parse(text); // said at once where it is none
  return text.trim();
}

function textRow(name, label, hint, parse) {
  const id = `setting-${name}`;
  const field = el("textarea", { id, rows: "2", spellcheck: "false", "aria-describedby": `${id}-hint` });
  const value = kept[tab][name] ?? "";
  field.value = Array.isArray(value) ? value.map((line) => line.replaceAll("\n", "\\n")).join("\n") : value;
  const help = el("p", { class: "hint", id: `${id}-hint` }, hint);
  field.addEventListener("input", () => {
    try {
      set(name, parse(field.value));
      help.textContent = hint;
      field.removeAttribute("aria-invalid");
    } catch {
      help.textContent = "This is not JSON yet.";
      field.setAttribute("aria-invalid", "true");
    }
  });
  return el("div", { class: "setting text", data: { setting: name } }, el("label", { for: id }, label), field, help);
}

function reset() {
  kept[tab] = {};
  save(`settings:${tab}`, kept[tab]);
  render();
  drawer.querySelector('[data-preset="Balanced"]').focus();
}

const opener = document.getElementById("drawer-button");

/** Show or hide the drawer; the focus goes with it. */
export function toggleDrawer() {
  if (!drawer.hidden) return closeDrawer();
  drawer.hidden = false;
  opener.setAttribute("aria-expanded", "true");
  save("drawer", true);
  drawer.querySelector('[role="radio"][tabindex="0"]').focus();
}

function closeDrawer() {
  drawer.hidden = true;
  opener.setAttribute("aria-expanded", "false");
  save("drawer", false);
  opener.focus();
}

opener.addEventListener("click", toggleDrawer);
drawer.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  event.stopPropagation();
  closeDrawer();
});
