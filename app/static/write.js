// Write: one sheet, which the model continues from its end.
import { button, copy, el, follower } from "./dom.js";
import { Run, show } from "./run.js";
import { sampling } from "./settings.js";
import { load, save } from "./store.js";

const EXAMPLES = ["Once upon a time, there was a little girl named Lily.", "The old lighthouse keeper had one rule:", "Dear diary, today"];

/** Build the tab. */
export function openWrite(panel, precision) {
  let run = null;
  let turn = load("write:turn", null); // the last continuation: what it followed, its alternatives, which one is shown
  const sheet = el("textarea", { class: "sheet", id: "sheet", "aria-label": "Your text", placeholder: "Begin a text. Ctrl+Enter has it continued." });
  sheet.value = load("write:draft", "");
  const tint = el("div", { class: "sheet tint", "aria-hidden": "true" });
  const chips = el("div", { class: "chips" }, EXAMPLES.map((text) => button(text, () => ((sheet.value = text), drawn(), go()), { class: "chip" })));
  const scroller = el("div", { class: "scroller" }, el("div", { class: "paper" }, tint, sheet), chips);
  const scroll = follower(scroller);
  const main = button("Continue", () => (run ? run.stop() : go()), { class: "primary", id: "continue" });
  const undo = button("Undo", takeBack, { id: "undo" });
  const again = button("Again", () => go(true), { id: "again" });
  const before = button("‹", () => flip(-1), { class: "quiet small", "aria-label": "Previous alternative" });
  const after = button("›", () => flip(1), { class: "quiet small", "aria-label": "Next alternative" });
  const place = el("span", { class: "place" });
  const copier = button("Copy", () => copy(sheet.value, copier), { class: "quiet" });
  const status = el("div", { class: "status", id: "write-status" });
  panel.append(scroller, el("div", { class: "dock" }, el("div", { class: "bar" }, main, undo, again, before, place, after, copier), el("div", { class: "dock-line" }, status)));
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), run || go());
    if (event.key === "Escape" && run) run.stop();
  });
  sheet.addEventListener("input", drawn);
  drawn();
  return { stop: () => run?.stop(), focus: () => sheet.focus() };

  function drawn() {
    save("write:draft", sheet.value);
    if (turn && sheet.value !== turn.before + turn.texts[turn.at]) turn = null;
    save("write:turn", turn);
    const start = turn ? turn.before.length : sheet.value.length;
    tint.replaceChildren(sheet.value.slice(0, start), el("span", { class: "new" }, sheet.value.slice(start)), "\n");
    chips.hidden = sheet.value !== "";
    undo.disabled = again.disabled = !turn || Boolean(run);
    before.hidden = after.hidden = place.hidden = !turn || turn.texts.length < 2 || Boolean(run);
    place.textContent = turn ? `${turn.at + 1}/${turn.texts.length}` : "";
  }

  async function go(isAgain = false) {
    if (run) return;
    if (isAgain) turn = { ...turn, texts: [...turn.texts, ""], at: turn.texts.length };
    else turn = { before: sheet.value, texts: [""], at: 0 };
    const mine = turn;
    sheet.readOnly = true;
    const current = (run = new Run("/page/continue", { text: mine.before, sampling: sampling("write"), precision: precision() }, {
      onText: (text) => {
        mine.texts[mine.at] += text;
        sheet.value = mine.before + mine.texts[mine.at];
        drawn();
        scroll.grown();
      },
      onChange: () => {
        show(status, current.line(), current.state.figures?.error);
        main.textContent = current.isQueued ? "Leave" : "Stop";
      },
    }));
    sheet.value = mine.before;
    drawn();
    main.classList.add("stop");
    await current.finish();
    run = null;
    if (!mine.texts[mine.at]) {
      mine.texts.splice(mine.at, 1);
      mine.at = mine.texts.length - 1;
      if (!mine.texts.length) turn = null;
      else sheet.value = mine.before + mine.texts[mine.at];
    }
    sheet.readOnly = false;
    main.textContent = "Continue";
    main.classList.remove("stop");
    drawn();
  }

  function takeBack() {
    sheet.value = turn.before;
    turn = null;
    drawn();
    sheet.focus();
  }

  function flip(step) {
    turn.at = (turn.at + step + turn.texts.length) % turn.texts.length;
    sheet.value = turn.before + turn.texts[turn.at];
    drawn();
  }
}
