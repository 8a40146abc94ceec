// Drafts and settings, kept by the browser for this model: a reload loses nothing.
import { facts } from "./facts.js";

const PREFIX = `smoltext:${facts.name}:`;
const waiting = new Map();
const DELAY = 250;

/** What was kept under a name, or else the given value. */
export function load(name, otherwise) {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? otherwise : JSON.parse(kept);
  } catch {
    return otherwise;
  }
}

/** Keep a value, a moment after the last change. */
export function save(name, value) {
  clearTimeout(waiting.get(name)?.timer);
  waiting.set(name, { value, timer: setTimeout(() => write(name), DELAY) });
}

function write(name) {
  const { value } = waiting.get(name);
  waiting.delete(name);
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page works without it.
  }
}

addEventListener("pagehide", () => {
  for (const [name, { timer }] of [...waiting]) {
    clearTimeout(timer);
    write(name);
  }
});
