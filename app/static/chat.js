// Chat: a conversation with the model, answered through its chat template.
import { button, copy, el, follower, growing } from "./dom.js";
import { Conversation } from "./conversation.js";
import { facts } from "./facts.js";
import { markdown } from "./markdown.js";
import { Run, show, summary } from "./run.js";
import { sampling } from "./settings.js";
import { load, save } from "./store.js";

const EXAMPLES = ["What is gravity, in simple words?", "Write a short poem about the sea.", "Give me three ideas for a rainy afternoon.", "How do I make a list in Python?"];
let talk, run, log, scroll, field, send, status, grow;

/** Build the tab. */
export function openChat(panel, precision) {
  if (facts.no_chat) {
    panel.append(el("p", { class: "nothing" }, `There is no chat: ${facts.no_chat}`));
    return { stop() {}, focus() {} };
  }
  talk = new Conversation(load("chat", null));
  log = el("div", { class: "log" });
  const scroller = el("div", { class: "scroller", tabindex: "-1" }, log);
  const latest = button("↓ Latest", () => scroll.toEnd(), { class: "latest", hidden: true });
  scroll = follower(scroller, (atEnd) => (latest.hidden = atEnd));
  field = el("textarea", { rows: "1", placeholder: "Ask something", "aria-label": "Message" });
  field.value = load("chat:draft", "");
  field.addEventListener("input", () => save("chat:draft", field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), submit());
    if (event.key === "Escape" && run) run.stop();
  });
  grow = growing(field);
  send = button("Send", () => (run ? run.stop() : submit()), { class: "primary", id: "send" });
  status = el("div", { class: "status", id: "chat-status" });
  panel.append(scroller, el("div", { class: "dock" }, latest, el("div", { class: "composer" }, field, send), el("div", { class: "dock-line" }, status, button("New chat", renew, { class: "quiet small", id: "new-chat" }))));
  panel.precision = precision;
  draw();
  scroll.toEnd();
  return { stop: () => run?.stop(), focus: () => field.focus() };

  function submit() {
    const text = field.value.trim();
    if (!text || run) return;
    field.value = "";
    save("chat:draft", "");
    grow();
    answer(talk.add(talk.last, "user", text));
  }

  function renew() {
    run?.stop();
    talk = new Conversation({ system: talk.system });
    keep();
    draw();
    show(status, []);
    field.focus();
  }

  /** Have a question answered, or an answer continued. */
  async function answer(from) {
    const isContinued = from.role === "assistant";
    const messages = talk.messages(from);
    const node = isContinued ? from : talk.add(from, "assistant", "");
    const mine = (run = new Run("/page/chat", { messages, sampling: sampling("chat"), precision: precision() }, {
      onStart: ({ dropped_messages: dropped }) => {
        if (dropped) node.forgotten = talk.path.indexOf(from) + 1 - (messages.filter(({ role }) => role !== "system").length - dropped);
      },
      onText: (text) => {
        node.text += text;
        refresh(node);
      },
      onChange: () => {
        show(status, mine.line(), mine.state.figures?.error);
        send.textContent = mine.isQueued ? "Leave" : "Stop";
      },
    }));
    send.textContent = "Stop";
    send.classList.add("stop");
    show(status, ["Sending…"]);
    draw();
    scroll.toEnd();
    field.focus();
    const figures = await mine.finish();
    if (run === mine) run = null;
    node.figures = figures;
    if (!node.text && !isContinued && figures.finish_reason !== "stop") {
      talk.remove(node);
      if (figures.error && !field.value && from.children.length === 0) field.value = from.text;
    }
    send.textContent = "Send";
    send.classList.remove("stop");
    keep();
    draw();
    scroll.grown();
  }

  function keep() {
    save("chat", talk.toJSON());
  }

  function refresh(node) {
    if (node.pending) return;
    node.pending = true;
    requestAnimationFrame(() => {
      delete node.pending;
      const body = log.querySelector(".answer:last-of-type .text");
      if (body) body.replaceChildren(...markdown(node.text));
      scroll.grown();
    });
  }

  function draw() {
    const path = talk.path;
    const forgotten = Math.max(0, ...path.map((node) => node.forgotten ?? 0));
    log.replaceChildren(system(), ...(path.length ? [] : [welcome()]), ...path.flatMap((node, index) => [
      forgotten && index === forgotten ? el("div", { class: "divider", role: "separator" }, `${forgotten} oldest messages forgotten`) : null,
      message(node, index === path.length - 1),
    ]).filter(Boolean));
  }

  function system() {
    const area = el("textarea", { rows: "2", "aria-label": "System message", placeholder: "How the model should behave. Left empty: the model’s own." });
    area.value = talk.system;
    area.addEventListener("input", () => {
      talk.system = area.value;
      keep();
    });
    return el("details", { class: "system" }, el("summary", {}, "System message"), area);
  }

  function welcome() {
    const chips = EXAMPLES.map((text) => button(text, () => ((field.value = text), submit()), { class: "chip" }));
    return el("div", { class: "welcome" }, el("h2", {}, "What would you like to know?"), el("p", {}, `${facts.name} answers on this server’s CPU. It is small: check what it says.`), el("div", { class: "chips" }, chips));
  }

  function message(node, isLast) {
    const isBusy = Boolean(run);
    const isRunning = isBusy && isLast;
    const text = el("div", { class: "text" }, node.role === "user" ? node.text : markdown(node.text));
    const actions = el("div", { class: "actions" });
    const copier = button("Copy", () => copy(node.text, copier), { class: "quiet small" });
    if (!isRunning) actions.append(copier, ...branches(node, isBusy));
    if (node.role === "user") {
      if (!isBusy) actions.append(button("Edit", () => edit(node, text, actions), { class: "quiet small" }));
      return el("article", { class: "question", "aria-label": "You" }, text, actions);
    }
    if (!isBusy && isLast) {
      actions.append(button("Regenerate", () => answer(talk.parent(node)), { class: "quiet small" }));
      if (["length", "cancelled", "error", "context"].includes(node.figures?.finish_reason)) actions.append(button("Continue", () => answer(node), { class: "quiet small" }));
    }
    const cost = node.figures?.new_tokens && !isRunning ? el("span", { class: "cost" }, summary(node.figures).slice(0, 2).join(" · ")) : null;
    if (isRunning && !node.text) text.append(el("span", { class: "thinking", "aria-hidden": "true" }, "…"));
    return el("article", { class: "answer", "aria-label": "Answer" }, text, el("div", { class: "foot" }, cost, actions));
  }

  function branches(node, isBusy) {
    const { children } = talk.parent(node);
    if (children.length < 2) return [];
    const turn = (step) => () => (talk.turn(node, step), keep(), draw(), field.focus());
    return [
      button("‹", turn(-1), { class: "quiet small", "aria-label": "Previous version", disabled: isBusy }),
      el("span", { class: "place" }, `${children.indexOf(node) + 1}/${children.length}`),
      button("›", turn(1), { class: "quiet small", "aria-label": "Next version", disabled: isBusy }),
    ];
  }

  function edit(node, text, actions) {
    const area = el("textarea", { "aria-label": "Edit the message" });
    area.value = node.text;
    const done = () => (draw(), field.focus());
    const again = () => area.value.trim() && answer(talk.add(talk.parent(node), "user", area.value.trim()));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") done();
      if (event.key === "Enter" && !event.shiftKey) (event.preventDefault(), again());
    });
    text.replaceChildren(area);
    actions.replaceChildren(button("Send", again, { class: "small primary" }), button("Cancel", done, { class: "quiet small" }));
    growing(area)();
    area.focus();
  }
}
