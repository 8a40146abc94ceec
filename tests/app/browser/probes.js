// Runs before the page's own scripts, and records what a test asks about at the end.
window.probes = { violations: [], announced: [], lost: [], isFocusWatched: false };

document.addEventListener("securitypolicyviolation", (event) => {
  window.probes.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});

// What a screen reader says: every text that a live region gets.
document.addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live");
  const said = () => live.textContent && window.probes.announced.push(live.textContent);
  if (live) new MutationObserver(said).observe(live, { childList: true, characterData: true, subtree: true });
});

// With the keyboard alone, the focus may be nowhere for no two frames.
let before = null;
let framesNowhere = 0;
(function watch() {
  const at = document.activeElement;
  const isNowhere = !at || at === document.body || at === document.documentElement;
  framesNowhere = isNowhere ? framesNowhere + 1 : 0;
  if (!isNowhere) before = at;
  if (framesNowhere === 2 && window.probes.isFocusWatched) window.probes.lost.push(before?.outerHTML.slice(0, 120) ?? "from the beginning");
  requestAnimationFrame(watch);
})();
