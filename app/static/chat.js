// Chat: a conversation with the model, answered through its chat template.
import { button, el } from "./dom.js";
import { Conversation } from "./conversation.js";
import { count, facts } from "./facts.js";
import { follower, growing } from "./follow.js";
import { icon } from "./icons.js";
import { MessageView } from "./message.js";
import { Run, show } from "./run.js";
import { sampling } from "./settings.js";
import { load, save } from "./store.js";

const EXAMPLES = ["What is gravity, in simple words?", "Write a short poem about the sea.", "Give me three ideas for a rainy afternoon.", "How do I make a list in Python?"];
const isTouched = () => matchMedia("(pointer: coarse)").matches;

/** Build the tab. */
export function openChat(panel, precision) {
  if (facts.no_chat) {
    panel.append(el("p", { class: "nothing" }, `There is no chat: ${facts.no_chat}`));
    return {};
  }
  const tab = new Chat(panel, precision);
  return { stop: () => tab.run?.stop(), focus: () => tab.field.focus({ preventScroll: true }), shown: () => (tab.grow(), tab.scroll.grown()) };
}

class Chat {
  constructor(panel, precision) {
    this.precision = precision;
    this.run = null;
    this.talk = new Conversation(load("chat", null));
    this.left = null; // the conversation before the new one, as long as that is empty
    this.views = new Map();
    this.does = {
      regenerate: (node) => this.answer(this.talk.parent(node)),
      continue: (node) => this.answer(node),
      edit: (node, text) => this.answer(this.talk.add(this.talk.parent(node), "user", text)),
      turn: (node, step) => this.turn(node, step),
      home: () => (this.draw(), this.home()),
    };
    this.build(panel);
    this.recover();
    this.draw();
    this.scroll.toEnd();
  }

  build(panel) {
    this.system = this.systemMessage();
    this.welcome = el(
      "div",
      { class: "welcome" },
      el("h2", {}, "What would you like to know?"),
      el("p", {}, `${facts.name} answers on this server’s CPU. It is small: check what it says.`),
      el("div", { class: "chips" }, EXAMPLES.map((text) => button(text, () => this.ask(text), { class: "chip" }))),
    );
    this.log = el("div", { class: "log column" });
    const scroller = el("div", { class: "scroller" }, this.log);
    this.latest = button([icon("down"), "Latest"], () => this.scroll.toEnd(), { class: "latest small", hidden: true });
    this.scroll = follower(scroller, (atEnd) => (this.latest.hidden = atEnd));
    this.field = el("textarea", { rows: "1", placeholder: "Ask something", "aria-label": "Message", enterkeyhint: "send" });
    this.field.value = load("chat:draft", "");
    this.grow = growing(this.field);
    this.send = button("Send", () => (this.run ? this.run.stop() : this.submit()), { class: "primary", id: "send" });
    this.status = el("div", { class: "status", id: "chat-status" });
    this.renewer = button([icon("add"), "New chat"], () => (this.left ? this.bringBack() : this.renew()), { class: "quiet small", id: "new-chat" });
    const composer = el("div", { class: "composer", on: { click: (event) => event.target === composer && this.field.focus() } }, this.field, this.send);
    panel.append(scroller, el("div", { class: "dock" }, this.latest, composer, el("div", { class: "dock-line" }, this.status, this.renewer)));
    this.field.addEventListener("input", () => (this.keepDraft(), this.buttons()));
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), this.submit());
    });
    panel.addEventListener("keydown", (event) => event.key === "Escape" && this.run?.stop());
  }

  systemMessage() {
    const area = el("textarea", { rows: "2", "aria-label": "System message", placeholder: "How the model should behave. Left empty, it is the model’s own." });
    const summary = el("summary", {});
    const tell = () => (summary.textContent = area.value.trim() ? "System message · yours" : "System message");
    area.value = this.talk.system;
    area.addEventListener("input", () => ((this.talk.system = area.value), tell(), this.keep()));
    const grow = growing(area, 300);
    tell();
    const details = el("details", { class: "system", on: { toggle: grow } }, summary, area);
    details.show = () => ((area.value = this.talk.system), tell(), grow());
    return details;
  }

  /** The focus, when what had it has gone. On a phone the field would raise the keyboard. */
  home() {
    (isTouched() ? this.send : this.field).focus({ preventScroll: true });
  }

  draw() {
    const { path } = this.talk;
    const focused = document.activeElement;
    const forgotten = Math.max(0, ...path.map((node) => node.forgotten ?? 0));
    const children = [this.system];
    if (!path.length) children.push(this.welcome);
    path.forEach((node, index) => {
      if (forgotten && index === forgotten) children.push(divider(forgotten));
      const view = this.view(node);
      view.update({ isLast: index === path.length - 1, isBusy: Boolean(this.run), siblings: this.talk.parent(node).children });
      children.push(view.element);
    });
    arrange(this.log, children);
    this.log.classList.toggle("is-empty", !path.length);
    this.buttons();
    if (focused && focused !== document.body && (!focused.isConnected || focused.disabled)) this.home();
  }

  view(node) {
    if (!this.views.has(node)) this.views.set(node, new MessageView(node, this.does));
    return this.views.get(node);
  }

  buttons() {
    const { run } = this;
    const label = run ? (run.isQueued ? "Leave" : "Stop") : "Send";
    if (this.send.textContent !== label) this.send.textContent = label;
    this.send.classList.toggle("stop", Boolean(run));
    // It keeps its colour; nothing to send is told by aria alone, so that it can keep the focus too.
    this.send.setAttribute("aria-disabled", String(!run && !this.field.value.trim()));
    this.renewer.hidden = !this.talk.path.length && !this.left;
    const told = this.left ? "Bring back" : "New chat";
    if (this.renewer.dataset.told !== told) {
      this.renewer.dataset.told = told;
      this.renewer.replaceChildren(icon(this.left ? "undo" : "add"), told);
    }
  }

  keep() {
    save("chat", this.talk.toJSON());
  }

  keepDraft() {
    save("chat:draft", this.field.value);
  }

  /** A page that was left while a question waited for its answer gives the question back. */
  recover() {
    if (this.talk.last.role === "assistant" && !this.talk.last.text) this.talk.remove(this.talk.last);
    if (this.talk.last.role === "user") this.giveBack(this.talk.last);
  }

  /** Take a question out of the conversation, back into the field. */
  giveBack(node) {
    this.talk.remove(node);
    this.field.value = [node.text, this.field.value].filter(Boolean).join("\n\n");
    this.keepDraft();
    this.keep();
    this.grow();
  }

  submit() {
    const text = this.field.value.trim();
    if (!text || this.run) return;
    this.field.value = "";
    this.keepDraft();
    this.grow();
    this.ask(text);
  }

  ask(text) {
    if (!this.run) this.answer(this.talk.add(this.talk.last, "user", text));
  }

  turn(node, step) {
    this.talk.turn(node, step);
    this.keep();
    this.draw();
  }

  renew() {
    this.run?.stop();
    this.left = this.talk.path.length ? this.talk : null;
    this.begin(new Conversation({ system: this.talk.system }));
  }

  bringBack() {
    const { left } = this;
    this.left = null;
    this.begin(left);
  }

  begin(talk) {
    this.talk = talk;
    this.views.clear();
    this.system.show();
    this.keep();
    this.draw();
    show(this.status, []);
    this.home();
    this.scroll.toEnd();
  }

  /** Have a question answered, or an answer continued. */
  async answer(from) {
    if (this.run) return;
    this.left = null;
    const { talk } = this;
    const isContinued = from.role === "assistant";
    const messages = talk.messages(from);
    const node = isContinued ? from : talk.add(from, "assistant", "");
    const options = sampling("chat");
    // With a seed of its own, another answer would be the same one.
    if (options.seed !== undefined && !isContinued) options.seed += from.children.length - 1;
    const run = new Run("/page/chat", { messages, sampling: options, precision: this.precision() }, {
      onStart: ({ dropped_messages: dropped }) => this.forget(node, from, messages, dropped),
      onText: (text) => this.take(node, text),
      onChange: () => {
        if (this.talk !== talk) return;
        show(this.status, run.line(), run.state.figures?.error);
        this.buttons();
      },
    });
    this.run = run;
    show(this.status, run.line());
    this.draw();
    this.scroll.toEnd();
    if (document.activeElement === this.send || document.activeElement === document.body) this.home();
    node.figures = await run.finish();
    if (this.run === run) this.run = null;
    if (!node.text && node.figures.finish_reason !== "stop") this.unanswered(talk, node, from);
    if (this.talk !== talk) return;
    this.keep();
    this.draw();
    this.scroll.grown();
  }

  forget(node, from, messages, dropped) {
    if (!dropped) return;
    const sent = messages.filter(({ role }) => role !== "system").length;
    node.forgotten = this.talk.path.indexOf(from) + 1 - (sent - dropped);
    this.draw();
  }

  /** An answer without a word is none; its question, if it has no other answer, may be put otherwise. */
  unanswered(talk, node, from) {
    talk.remove(node);
    if (this.talk === talk && from.role === "user" && !from.children.length) this.giveBack(from);
  }

  take(node, text) {
    node.text += text;
    if (this.isGrown) return;
    this.isGrown = true;
    requestAnimationFrame(() => {
      this.isGrown = false;
      const view = this.views.get(node);
      if (!view) return;
      view.element.classList.remove("waiting");
      view.grow();
      this.keep();
      this.scroll.grown();
    });
  }
}

const divider = (forgotten) => el("div", { class: "divider", role: "separator" }, el("span", {}, `${count(forgotten, "oldest message")} forgotten`));

/** Give an element these children, in this order; those that are there already are not moved, and keep focus and scroll. */
function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}
