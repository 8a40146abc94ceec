// A message on the screen: it stays the same element while its text grows and its buttons change.
import { button, copy, el, iconButton } from "./dom.js";
import { count, speed } from "./facts.js";
import { growing } from "./follow.js";
import { icon } from "./icons.js";
import { updateMarkdown } from "./markdown.js";

const CUT = ["length", "cancelled", "error", "context", "incomplete"]; // what can be continued
const LONGEST = 20_000;

/**
 * The view of a message.
 * @param node of the conversation.
 * @param does what its buttons do: regenerate, continue, edit, turn, each of the node; and `home`, which takes the focus.
 */
export class MessageView {
  constructor(node, does) {
    this.node = node;
    this.does = does;
    this.text = el("div", { class: "text" });
    this.actions = el("div", { class: "actions" });
    this.cost = el("span", { class: "cost" });
    const isQuestion = node.role === "user";
    this.element = isQuestion
      ? el("article", { class: "question", "aria-label": "You" }, this.text, this.actions)
      : el("article", { class: "answer", "aria-label": "Answer" }, this.text, el("div", { class: "foot" }, this.cost, this.actions));
    if (isQuestion) this.showQuestion();
  }

  /** A question as it was typed; of a very long one, which would take a browser a second to lay out, the beginning. */
  showQuestion(most = LONGEST) {
    const { text } = this.node;
    this.text.replaceChildren(text.slice(0, most));
    if (text.length <= most) return;
    const all = button(`Show all ${count(text.length, "character")}`, () => this.showQuestion(Infinity), { class: "small" });
    this.text.append("… ", all);
  }

  /** Draw the text as it is now. */
  grow() {
    updateMarkdown(this.text, this.node.text);
  }

  /** Draw the text and what can be done. `siblings` are the versions of the message, itself among them. */
  update({ isLast, isBusy, siblings }) {
    const { node } = this;
    const isRunning = isBusy && isLast;
    if (node.role === "assistant") this.grow();
    this.element.classList.toggle("waiting", isRunning && node.role === "assistant" && !node.text);
    this.element.classList.toggle("last", isLast);
    const { new_tokens: tokens, tokens_per_second: rate } = node.figures ?? {};
    this.cost.textContent = tokens && !isRunning ? [count(tokens, "token"), rate && speed(rate)].filter(Boolean).join(" · ") : "";
    // Buttons are made anew only where they change: one of them may have the focus.
    const state = JSON.stringify([isRunning, isBusy, isLast, siblings.length, siblings.indexOf(node), node.figures?.finish_reason]);
    if (state === this.state || this.isEdited) return;
    this.state = state;
    this.actions.replaceChildren(...(isRunning && node.role === "assistant" ? [] : this.buttons({ isLast, isBusy, siblings })));
  }

  buttons({ isLast, isBusy, siblings }) {
    const { node, does } = this;
    const copier = iconButton(icon("copy"), "Copy", () => copy(node.text, copier), { class: "small" });
    const made = [copier];
    if (node.role === "user" && !isBusy) made.push(iconButton(icon("edit"), "Edit", () => this.edit(), { class: "small" }));
    if (node.role === "assistant" && isLast && !isBusy) {
      made.push(iconButton(icon("again"), "Regenerate", () => does.regenerate(node), { class: "small" }));
      const isCut = !node.figures || CUT.includes(node.figures.finish_reason);
      if (isCut) made.push(button("Continue", () => does.continue(node), { class: "quiet small", title: "Go on where it was cut" }));
    }
    return siblings.length > 1 ? [this.versions(siblings, isBusy), ...made] : made;
  }

  versions(siblings, isBusy) {
    const { node, does } = this;
    return el(
      "span",
      { class: "alternatives", role: "group", "aria-label": "Versions" },
      iconButton(icon("before"), "Previous version", () => does.turn(node, -1), { class: "small", disabled: isBusy }),
      el("span", { class: "place" }, `${siblings.indexOf(node) + 1}/${siblings.length}`),
      iconButton(icon("after"), "Next version", () => does.turn(node, 1), { class: "small", disabled: isBusy }),
    );
  }

  /** Let the question be edited in its place. */
  edit() {
    const area = el("textarea", { "aria-label": "Edit the message", rows: "1" });
    area.value = this.node.text;
    const end = () => {
      this.isEdited = false;
      this.state = null;
      this.element.classList.remove("edited");
      this.showQuestion();
    };
    const leave = () => (end(), this.does.home());
    const send = () => {
      const text = area.value.trim();
      if (!text) return;
      end();
      this.does.edit(this.node, text);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), leave());
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), send());
    });
    this.isEdited = true;
    this.element.classList.add("edited");
    this.text.replaceChildren(area);
    this.actions.replaceChildren(button("Cancel", leave, { class: "quiet small" }), button("Send", send, { class: "small primary" }));
    growing(area, 400)();
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
