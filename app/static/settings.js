// The sampling settings of each tab. What is unset is the model's own. The drawer (drawer.js) shows them.
import { facts } from "./facts.js";
import { load, save } from "./store.js";

export const PRESETS = {
  Precise: { temperature: 0.2, top_p: 0.9 },
  Balanced: {},
  Wild: { temperature: 1.2, min_p: 0.03 },
};
export const DRAWN = ["temperature", "top_p", "top_k", "min_p", "typical_p"]; // what a preset sets
const SHAPE = ["max_new_tokens", "seed", "stop_strings", "json_schema", "regex"]; // what a text is to be, however it is drawn
const LENGTHS = { write: 256, chat: 1024, compare: 96 };
const TEXTS = { stop_strings: Array.isArray, json_schema: isText, regex: isText, seed: Number.isSafeInteger };
const kept = Object.fromEntries(Object.keys(LENGTHS).map((tab) => [tab, valid(load(`settings:${tab}`, {}))]));
const handlers = new Set();

function isText(value) {
  return typeof value === "string";
}

/** Call a function with a tab's name whenever its settings change. */
export const onSettings = (handler) => handlers.add(handler);

/** Whether a tab has settings. */
export const hasSettings = (tab) => tab in kept;

/** The default of a control in a tab: the model's own, or for the length what suits the tab. */
export function defaultOf(control, tab) {
  if (control.value !== null || control.name !== "max_new_tokens") return control.value;
  return Math.min(LENGTHS[tab], control.most);
}

/** The value of a setting by its name; undefined where it is unset. */
export const given = (tab, name) => kept[tab][name];

/** The settings to send: those that differ from the model's own, and the length. */
export function sampling(tab) {
  const length = facts.controls.find(({ name }) => name === "max_new_tokens");
  return { max_new_tokens: defaultOf(length, tab), ...kept[tab] };
}

/** The names of the settings that differ from the default. */
export const differing = (tab) => Object.keys(kept[tab] ?? {});

/** Set one setting; the default, nothing and an empty text unset it. */
export function set(tab, name, value) {
  const control = facts.controls.find((other) => other.name === name);
  const isDefault = control ? value === defaultOf(control, tab) : value === "" || value === null || value?.length === 0;
  if (isDefault) delete kept[tab][name];
  else kept[tab][name] = value;
  changed(tab);
}

/** Take settings, of a link for one, in place of those that are there. */
export function adopt(tab, values) {
  kept[tab] = valid(values);
  changed(tab);
}

/** Choose a preset. */
export function choosePreset(tab, preset) {
  for (const name of DRAWN) delete kept[tab][name];
  for (const [name, value] of Object.entries(PRESETS[preset])) set(tab, name, value);
  changed(tab);
}

/** The preset that the settings are, or null. */
export function presetOf(tab) {
  const drawn = Object.fromEntries(Object.entries(kept[tab]).filter(([name]) => DRAWN.includes(name)));
  const isSame = (values) => {
    // What a preset sets to the model's own value is not kept.
    const asked = Object.entries(values).filter(([name, value]) => facts.controls.find((one) => one.name === name)?.value !== value);
    return asked.length === Object.keys(drawn).length && asked.every(([name, value]) => drawn[name] === value);
  };
  return Object.keys(PRESETS).find((name) => isSame(PRESETS[name])) ?? null;
}

/** What the settings are called: a preset's name, or Custom. */
export const describe = (tab) => presetOf(tab) ?? "Custom";

/** Have Write and Chat draw tokens as these settings do; what shapes their texts (length, seed, stops, schema) stays. */
export function drawAs(values) {
  for (const tab of ["write", "chat"]) adopt(tab, { ...only(SHAPE, kept[tab]), ...without(SHAPE, values) });
}

/** Whether Write and Chat draw tokens as these settings do. */
export const isDrawnAs = (values) => ["write", "chat"].every((tab) => isSame(without(SHAPE, kept[tab]), without(SHAPE, values)));

const without = (names, values) => pick(values, (name) => !names.includes(name));
const only = (names, values) => pick(values, (name) => names.includes(name));
const pick = (values, isWanted) => Object.fromEntries(Object.entries(values).filter(([name]) => isWanted(name)));
const isSame = (one, other) => Object.keys({ ...one, ...other }).every((name) => one[name] === other[name]);

function changed(tab) {
  save(`settings:${tab}`, kept[tab]);
  for (const handler of handlers) handler(tab);
}

/** Of values from outside (a link, an older page's), those that can be settings here. */
function valid(values) {
  const isValid = ([name, value]) => {
    if (name in TEXTS) return TEXTS[name](value);
    const control = facts.controls.find((other) => other.name === name);
    return control && typeof value === "number" && value >= control.least && value <= control.most;
  };
  return Object.fromEntries(Object.entries(values ?? {}).filter(isValid));
}
