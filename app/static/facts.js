// What the server wrote into the page: the model, its precisions, the controls and their defaults.
export const facts = JSON.parse(document.getElementById("facts").textContent);

export const number = new Intl.NumberFormat("en").format;

/** `137 MB`, `0.4 MB`. */
export const megabytes = (bytes) => `${bytes >= 1e7 ? number(Math.round(bytes / 1e6)) : (bytes / 1e6).toFixed(1)} MB`;

/** `135M`, `1.7B`, `42k`. */
export function short(count) {
  for (const [unit, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= unit) return `${Number((count / unit).toPrecision(3))}${letter}`;
  }
  return String(count);
}

/** `1st`, `2nd`, `13th`. */
export function ordinal(place) {
  const suffix = { one: "st", two: "nd", few: "rd", other: "th" }[new Intl.PluralRules("en", { type: "ordinal" }).select(place)];
  return `${place}${suffix}`;
}

/** `46 tokens/s`, `8.4 tokens/s`. */
export const speed = (perSecond) => `${perSecond >= 10 ? number(Math.round(perSecond)) : perSecond.toFixed(1)} tokens/s`;

/** `0.8 s`, `120 ms`. */
export const duration = (seconds) => (seconds >= 0.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds * 1000)} ms`);

/** `1 token`, `2,048 tokens`. */
export const count = (amount, noun) => `${number(amount)} ${noun}${amount === 1 ? "" : "s"}`;
