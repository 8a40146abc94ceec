// The frame: tabs, the precision, light and dark.
import { openChat } from "./chat.js";
import { openCompare } from "./compare.js";
import { openModel } from "./model.js";
import { watch } from "./connection.js";
import { showSettings } from "./drawer.js";
import { facts, megabytes, number, short } from "./facts.js";
import { icon } from "./icons.js";
import { load, save } from "./store.js";
import { openWrite } from "./write.js";

const at = (id) => document.getElementById(id);
const precision = at("precision");
const chosen = () => precision.value;
const tabs = {};
const names = ["write", "chat", "compare", "model"];

function showModel() {
  const parts = [facts.parameters && `${short(facts.parameters)} parameters`, `${number(facts.context_tokens)} context`];
  at("facts-line").textContent = parts.filter(Boolean).join(" · ");
  for (const { name, bytes, summary } of facts.precisions) {
    const option = new Option(`${name} · ${megabytes(bytes)}`, name);
    option.title = summary;
    precision.add(option);
  }
  precision.value = load("precision", facts.precision);
  if (!precision.value) precision.value = facts.precision;
  const tell = () => (precision.title = `Precision of the weights: ${precision.selectedOptions[0].title}`);
  precision.addEventListener("change", () => (save("precision", precision.value), tell()));
  tell();
}

function choose(name, hasFocus = true) {
  for (const other of names) {
    const isChosen = other === name;
    at(other).hidden = !isChosen;
    at(`tab-${other}`).setAttribute("aria-selected", String(isChosen));
    at(`tab-${other}`).tabIndex = isChosen ? 0 : -1;
  }
  save("tab", name);
  showSettings(name);
  tabs[name].shown?.();
  measureDock();
  if (hasFocus) tabs[name].focus?.();
}

function openTabs() {
  tabs.write = openWrite(at("write"), chosen, (settings) => choosePrecision(settings));
  tabs.chat = openChat(at("chat"), chosen);
  tabs.compare = openCompare(at("compare"), chosen, choosePrecision);
  tabs.model = openModel(at("model"), chosen);
  for (const name of names) at(`tab-${name}`).addEventListener("click", () => choose(name, !matchMedia("(pointer: coarse)").matches));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const from = names.indexOf(event.target.dataset.tab);
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = names[(to + names.length) % names.length];
    choose(next, false);
    at(`tab-${next}`).focus();
  });
}

function choosePrecision(name) {
  if (facts.precisions.some((one) => one.name === name)) {
    precision.value = name;
    precision.dispatchEvent(new Event("change"));
  }
}

function openTheme() {
  const root = document.documentElement;
  const themeButton = at("theme-button");
  const show = () => {
    const other = root.dataset.theme === "dark" ? "Light" : "Dark";
    themeButton.replaceChildren(icon(other === "Light" ? "sun" : "moon"));
    themeButton.setAttribute("aria-label", other);
    themeButton.title = other;
  };
  themeButton.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("smoltext:theme", root.dataset.theme);
    } catch {
      // It holds until the page is left.
    }
    show();
  });
  show();
}

/** The drawer of a phone ends where the dock of the tab begins. */
function measureDock() {
  const dock = document.querySelector("main > section:not([hidden]) .dock");
  document.documentElement.style.setProperty("--dock", `${dock?.offsetHeight ?? 0}px`);
}

showModel();
openTabs();
openTheme();
const first = tabs.write.isFromLink ? "write" : load("tab", facts.no_chat ? "write" : "chat");
choose(names.includes(first) ? first : "write", !matchMedia("(pointer: coarse)").matches);
const docks = new ResizeObserver(measureDock);
for (const dock of document.querySelectorAll(".dock")) docks.observe(dock);
watch(() => tabs[document.querySelector('[role="tab"][aria-selected="true"]').dataset.tab].focus?.());
