// What the server knows of the model: asked for once, when a tab first needs it.
let known;

/** The card: parts, precisions with their figures, whether PyTorch is there. Asked again after a failure. */
export function card() {
  known ??= fetch("/page/model")
    .then((answer) => {
      if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
      return answer.json();
    })
    .catch((error) => {
      known = undefined;
      throw error;
    });
  return known;
}

/** `0.0026`, `0.16`; `0` for what is nothing but rounding. */
export const nats = (kl) => (kl < 5e-6 ? "0" : String(Number(kl.toPrecision(2))));

/** `3.80`, `61.9`. */
export const perplexity = (value) => value.toPrecision(3);
