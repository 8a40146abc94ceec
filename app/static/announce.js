// What a screen reader hears: the begin and the end of a text, and errors, once each.
const live = document.getElementById("live");
const SAME = 4000; // A server that goes is noticed twice, by the text under way and by the page: it is said once.
let last = { text: "", time: -Infinity };

/** Say something politely. */
export function announce(text) {
  const now = performance.now();
  if (text === last.text && now - last.time < SAME) return;
  last = { text, time: now };
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = text));
}
