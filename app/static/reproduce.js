// The same text without the page: a command line and lines of Python, for the settings as they are.
import { Conversation } from "./conversation.js";
import { copy, el, iconButton } from "./dom.js";
import { facts } from "./facts.js";
import { icon } from "./icons.js";
import { sampling } from "./settings.js";
import { ask } from "./stream.js";
import { load, save } from "./store.js";

const TABS = { write: "Write", chat: "Chat", compare: "Compare" };

/** The section. */
export function openReproduce(precision) {
  const names = Object.keys(TABS).filter((name) => name !== "chat" || !facts.no_chat);
  const select = el(
    "select",
    { "aria-label": "Settings of", on: { change: () => (save("reproduce", select.value), shown()) } },
    names.map((name) => new Option(TABS[name], name)),
  );
  select.value = load("reproduce", names.includes("chat") ? "chat" : "write");
  if (!select.value) select.value = names[0];
  const shell = block("Command line", "wrapped");
  const python = block("Python");
  const note = el("p", { class: "hint" });
  const heading = el("div", { class: "heading" }, el("h2", {}, "The same without this page"), el("label", {}, "As in ", select));
  let asked = 0;
  return { element: el("section", { class: "reproduce" }, heading, note, shell.element, python.element), shown };

  async function shown() {
    const mine = ++asked;
    const wish = { ...prompt(select.value), precision: precision(), sampling: sampling(select.value) };
    try {
      const lines = await ask("/page/reproduce", wish);
      if (mine !== asked) return;
      shell.show(lines.command_line);
      python.show(lines.python);
      const seed = wish.sampling.seed === undefined ? " With a seed, set under Sampling, the text is the same each time." : "";
      note.textContent = `Precision, settings and text of ${TABS[select.value]}, to run in the project’s folder.${seed}`;
    } catch (error) {
      if (mine === asked) note.textContent = error.message;
    }
  }
}

/** What a tab would send now: its draft, or else the last question of its conversation. */
function prompt(tab) {
  if (tab === "write") return { text: load("write:draft", "") || "Once upon a time" };
  if (tab === "compare")
    return {
      text: load("compare:draft", "") || "Once upon a time",
      as_question: !facts.no_chat && (load("compare", {}).asQuestion ?? true),
    };
  const kept = load("chat", null);
  const asked = new Conversation(kept).path.filter(({ role }) => role === "user").at(-1)?.text;
  return {
    text: load("chat:draft", "") || asked || "What is gravity, in simple words?",
    as_question: true,
    system: kept?.system?.trim() ?? "",
  };
}

/** Lines of code with a button that copies them. */
function block(title, kind = "") {
  const code = el("code");
  const copier = iconButton(icon("copy"), `Copy: ${title}`, () => copy(code.textContent, copier), { class: "small" });
  const lines = el("pre", { tabindex: "0", role: "region", "aria-label": title }, code);
  const element = el("div", { class: `code ${kind}`.trim() }, el("div", { class: "code-head" }, title, copier), lines);
  return { element, show: (text) => (code.textContent = text.trimEnd()) };
}
