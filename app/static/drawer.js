// The drawer: the settings of the tab in sight. Beside the tab, or on a phone a sheet above the dock.
import { button, el, iconButton } from "./dom.js";
import { facts } from "./facts.js";
import { icon } from "./icons.js";
import { PRESETS, adopt, choosePreset, defaultOf, differing, given, hasSettings, onSettings, presetOf, set } from "./settings.js";
import { load, save } from "./store.js";

const FIRST = ["temperature", "max_new_tokens"]; // always in sight; the rest is Advanced
const drawer = document.getElementById("drawer");
const opener = document.getElementById("drawer-button");
const mark = document.getElementById("drawer-mark");
const isPhone = () => matchMedia("(max-width: 760px)").matches;
let tab = null;
let isAdvanced = load("advanced", false);

opener.prepend(icon("sliders"));
opener.addEventListener("click", () => (drawer.hidden ? open() : close()));
drawer.after(el("div", { class: "drawer-scrim", on: { click: () => close() } }));
drawer.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  event.stopPropagation();
  close();
});
onSettings((of) => of === tab && marks());

/** Show the settings of a tab; a tab without settings has no drawer. */
export function showSettings(of) {
  tab = hasSettings(of) ? of : null;
  opener.hidden = tab === null;
  // A sheet that covers half of a phone is opened by hand.
  const isOpen = tab !== null && load("drawer", false) && !isPhone();
  drawer.hidden = !isOpen;
  opener.setAttribute("aria-expanded", String(isOpen));
  if (tab) render();
}

/** Draw the settings anew, after they were taken from elsewhere. */
export function refreshDrawer() {
  if (tab) render();
}

function open() {
  drawer.hidden = false;
  opener.setAttribute("aria-expanded", "true");
  save("drawer", true);
  drawer.querySelector('[role="radio"][tabindex="0"]').focus();
}

function close() {
  drawer.hidden = true;
  opener.setAttribute("aria-expanded", "false");
  save("drawer", false);
  opener.focus();
}

function render() {
  const rows = facts.controls.map((control) => [FIRST.includes(control.name), row(control)]);
  const pick = (isFirst) => rows.filter(([first]) => first === isFirst).map(([, made]) => made);
  drawer.replaceChildren(
    el(
      "div",
      { class: "drawer-head" },
      el("h2", {}, "Sampling"),
      button("Reset", reset, { class: "quiet small reset" }),
      iconButton(icon("close"), "Close sampling", close, { class: "small" }),
    ),
    el(
      "div",
      { class: "presets", role: "radiogroup", "aria-label": "Preset", on: { keydown: arrows } },
      Object.keys(PRESETS).map((name) => button(name, () => choose(name), { role: "radio", data: { preset: name } })),
    ),
    el("p", { class: "hint" }, "Balanced is as the model’s authors set it."),
    ...pick(true),
    seedRow(),
    el(
      "details",
      { open: isAdvanced, on: { toggle: (event) => save("advanced", (isAdvanced = event.target.open)) } },
      el("summary", {}, "Advanced"),
      ...pick(false),
      textRow("stop_strings", "Stop strings", "One a line. The text ends before any of them.", stopLines),
      textRow("json_schema", "JSON schema", "The text is JSON that this schema admits.", schemaText),
      textRow("regex", "Regular expression", "The whole text matches it.", (text) => text),
    ),
  );
  marks();
}

function marks() {
  const names = differing(tab);
  mark.hidden = !names.length;
  mark.textContent = names.length || "";
  const told = names.length ? `Sampling: ${names.length} changed` : "Sampling";
  opener.setAttribute("aria-label", told);
  opener.title = told;
  for (const row of drawer.querySelectorAll("[data-setting]")) row.classList.toggle("changed", names.includes(row.dataset.setting));
  const preset = presetOf(tab);
  for (const one of drawer.querySelectorAll("[data-preset]")) {
    one.setAttribute("aria-checked", String(one.dataset.preset === preset));
    one.tabIndex = one.dataset.preset === (preset ?? "Balanced") ? 0 : -1;
  }
  const reset = drawer.querySelector(".reset");
  if (reset) reset.hidden = !names.length;
}

function choose(preset) {
  choosePreset(tab, preset);
  render();
  drawer.querySelector(`[data-preset="${preset}"]`).focus();
}

function arrows(event) {
  const names = Object.keys(PRESETS);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const at = names.indexOf(event.target.dataset.preset);
  choose(names[(at + step + names.length) % names.length]);
}

function reset() {
  adopt(tab, {});
  render();
  drawer.querySelector('[data-preset="Balanced"]').focus();
}

/** A row's button back to the default; it has a place of its own, kept while there is nothing to take back. */
function back(name, label, of) {
  const told = of === undefined ? `${label}: back to none` : `${label}: back to ${of}`;
  const goBack = () => {
    set(tab, name, of ?? "");
    render();
    document.getElementById(`setting-${name}`).focus();
  };
  return iconButton(icon("undo"), told, goBack, { class: "back" });
}

// A length is chosen by its size: 16 to 32 is as far as 1,024 to 2,048.
const straight = { to: (value) => value, from: (value) => value };
const doubling = { to: (value) => Math.log2(value), from: (value) => Math.round(2 ** value) };

function row(control) {
  const { name, label, meaning, least, most, step } = control;
  const id = `setting-${name}`;
  const scale = name === "max_new_tokens" ? doubling : straight;
  const ends = { min: String(scale.to(least)), max: String(scale.to(most)), step: scale === straight ? String(step) : "any" };
  // The number does all that the slider does, so the keyboard stops once a row.
  const range = el("input", { type: "range", ...ends, "aria-label": label, tabindex: "-1" });
  const limits = { min: String(least), max: String(most), step: String(step) };
  const field = el("input", { id, type: "number", ...limits, inputmode: step === 1 ? "numeric" : "decimal", "aria-describedby": `${id}-hint` });
  const fill = () => range.style.setProperty("--part", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);
  const show = (value, source) => {
    if (source !== field) field.value = value;
    if (source !== range) range.value = scale.to(value);
    fill();
  };
  show(given(tab, name) ?? defaultOf(control, tab));
  range.addEventListener("input", () => {
    const value = Math.min(Math.max(scale.from(Number(range.value)), least), most);
    show(value, range);
    set(tab, name, value);
  });
  field.addEventListener("input", () => {
    if (field.value === "" || !field.checkValidity()) return;
    show(Number(field.value), field);
    set(tab, name, Number(field.value));
  });
  field.addEventListener("change", () => {
    const held = Math.min(Math.max(Number(field.value || defaultOf(control, tab)), least), most);
    show(step === 1 ? Math.round(held) : held);
    set(tab, name, Number(field.value));
  });
  return el(
    "div",
    { class: "setting", data: { setting: name }, title: meaning },
    el("label", { for: id }, label),
    range,
    field,
    back(name, label, defaultOf(control, tab)),
    el("p", { class: "visually-hidden", id: `${id}-hint` }, meaning),
  );
}

function seedRow() {
  const field = el("input", { id: "setting-seed", type: "text", inputmode: "numeric", pattern: "[0-9]*", placeholder: "New each time" });
  field.value = given(tab, "seed") ?? "";
  field.addEventListener("input", () => {
    const isSeed = /^\d*$/.test(field.value) && Number.isSafeInteger(Number(field.value));
    field.setCustomValidity(isSeed ? "" : "A whole number below 9,007,199,254,740,992");
    if (isSeed) set(tab, "seed", field.value === "" ? null : Number(field.value));
  });
  const meaning = "The same seed, text and settings give the same output";
  return el("div", { class: "setting", data: { setting: "seed" }, title: meaning }, el("label", { for: "setting-seed" }, "Seed"), field, back("seed", "Seed"));
}

const stopLines = (text) => text.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));

function schemaText(text) {
  if (text.trim()) JSON.parse(text); // said at once where it is none
  return text.trim();
}

function textRow(name, label, hint, parse) {
  const id = `setting-${name}`;
  const field = el("textarea", { id, rows: "2", spellcheck: "false", autocapitalize: "off", "aria-describedby": `${id}-hint` });
  const value = given(tab, name) ?? "";
  field.value = Array.isArray(value) ? value.map((line) => line.replaceAll("\n", "\\n")).join("\n") : value;
  const help = el("p", { class: "hint", id: `${id}-hint` }, hint);
  field.addEventListener("input", () => {
    try {
      set(tab, name, parse(field.value));
      help.textContent = hint;
      field.removeAttribute("aria-invalid");
    } catch {
      help.textContent = "This is not JSON yet.";
      field.setAttribute("aria-invalid", "true");
    }
  });
  return el("div", { class: "setting text", data: { setting: name } }, el("label", { for: id }, label), back(name, label), field, help);
}
