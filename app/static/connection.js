// Whether the server is there and its model is open, said under the header.
import { announce } from "./announce.js";
import { button, el } from "./dom.js";
import { GONE } from "./stream.js";

const POLL = 1000;
const LIMIT = 1500; // With the pause before it, a server that hangs is told within 3 s.
const banner = document.getElementById("banner");
let timer;
let said = "";
let home = () => {};

function tell(text, { isError = false, ...parts } = {}) {
  if (text === said) return;
  const wasGone = said === GONE;
  const hadFocus = banner.contains(document.activeElement);
  said = text;
  banner.hidden = !text;
  banner.classList.toggle("error", isError);
  banner.replaceChildren(...[parts.before, text && el("span", {}, text), parts.after].filter(Boolean));
  if (isError) announce(text);
  else if (wasGone && !text) announce("The server is there again");
  if (hadFocus && !text) home();
}

async function poll() {
  clearTimeout(timer);
  if (!document.hidden) await look();
  timer = setTimeout(poll, POLL);
}

async function look() {
  let answer;
  try {
    const response = await fetch("/page/state", { signal: AbortSignal.timeout(LIMIT) });
    answer = await response.json();
  } catch {
    tell(GONE, { isError: true, after: button("Reconnect", reconnect, { class: "small" }) });
    return;
  }
  const { state, error } = answer;
  if (state === "failed") tell(`The model cannot be opened: ${error}`, { isError: true });
  else if (state === "ready") tell("");
  else tell("The model is being loaded…", { before: el("span", { class: "spinner", "aria-hidden": "true" }) });
}

async function reconnect(event) {
  const source = event.currentTarget;
  source.textContent = "Trying…";
  await poll();
  source.textContent = "Reconnect";
}

/** Begin to look after the server; `focusHome` takes the focus when the message that had it goes away. */
export function watch(focusHome) {
  home = focusHome;
  document.addEventListener("visibilitychange", poll);
  poll();
}
