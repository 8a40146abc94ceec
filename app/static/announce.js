// What a screen reader hears: the begin and the end of a text, and errors, once each.
const live = document.getElementById("live");

/** Say something politely. */
export function announce(text) {
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = text));
}
