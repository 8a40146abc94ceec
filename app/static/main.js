// The frame: tabs, the precision, light and dark, and whether the server is there.
import { announce } from "./announce.js";
import { button } from "./dom.js";
import { facts, megabytes, number, short } from "./facts.js";
import { openChat } from "./chat.js";
import { showSettings } from "./settings.js";
import { load, save } from "./store.js";
import { openWrite } from "./write.js";

const POLL = 1500;
const at = (id) => document.getElementById(id);
const banner = at("banner");
const precision = at("precision");

at("facts-line").textContent = [facts.parameters && `${short(facts.parameters)} parameters`, `context ${number(facts.context_tokens)}`].filter(Boolean).join(" · ");
precision.replaceChildren(...facts.precisions.map(({ name, bytes, summary }) => Object.assign(new Option(`${name} · ${megabytes(bytes)}`, name), { title: summary })));
precision.value = load("precision", facts.precision);
if (!precision.value) precision.value = facts.precision;
precision.addEventListener("change", () => save("precision", precision.value));

const tabs = { write: openWrite(at("write"), () => precision.value), chat: openChat(at("chat"), () => precision.value) };
const names = ["write", "chat"];
for (const name of ["compare", "model"]) at(`tab-${name}`).hidden = true;

function choose(name, focus = true) {
  for (const other of names) {
    at(other).hidden = other !== name;
    at(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    at(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  save("tab", name);
  showSettings(name);
  if (focus) tabs[name].focus?.();
}

for (const name of names) at(`tab-${name}`).addEventListener("click", () => choose(name));
document.querySelector(".tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = names[(names.indexOf(event.target.dataset.tab) + step + names.length) % names.length];
  choose(next, false);
  at(`tab-${next}`).focus();
});
const first = load("tab", facts.no_chat ? "write" : "chat");
choose(names.includes(first) ? first : "write");

const root = document.documentElement;
const themeButton = at("theme-button");
function themed() {
  const isDark = root.dataset.theme === "dark";
  themeButton.textContent = isDark ? "☀" : "☾";
  themeButton.setAttribute("aria-label", isDark ? "Light" : "Dark");
}
themeButton.addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("smoltext:theme", root.dataset.theme);
  } catch {
    // It holds until the page is left.
  }
  themed();
});
themed();

let said = "";
function tell(text, ...children) {
  if (text === said) return;
  said = text;
  banner.hidden = !text;
  banner.replaceChildren(text, ...children);
  if (!text) announce("The server is there");
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/page/state", { signal: AbortSignal.timeout(POLL) });
      const { state, error } = await answer.json();
      tell(state === "ready" ? "" : state === "failed" ? `The model cannot be opened: ${error}` : "The model is being loaded…");
    } catch {
      tell("The server does not answer. ", button("Reconnect", poll, { class: "small" }));
    }
  }
  clearTimeout(timer);
  timer = setTimeout(poll, POLL);
}
let timer;
poll();
