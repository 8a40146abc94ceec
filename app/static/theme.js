// Runs before the first paint: light or dark as chosen, or else as the system has it.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("smoltext:theme");
  } catch {
    // Storage may be forbidden; the system's choice holds then.
  }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
