// Requests to the server: a stream of events, or one JSON value.

/** What the server said is wrong, for the visitor. */
export class ServerError extends Error {}
/** What is said where the server does not answer. */
export const GONE = "The server does not answer.";

/** The server does not answer. */
export class GoneError extends Error {
  constructor() {
    super(GONE);
  }
}

async function post(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new GoneError();
  }
  if (!answer.ok) throw new ServerError(await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    return sentence((await answer.json()).error.message);
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/** Post a JSON value and get one. */
export const ask = async (path, body, signal) => (await post(path, body, signal)).json();

/** Post a JSON value and get events as they come. Aborting the signal ends the work on the server, too. */
export async function* stream(path, body, signal) {
  const answer = await post(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new GoneError();
    }
    if (piece.done) throw new GoneError(); // its end is an event
    const events = (rest + piece.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new ServerError(sentence(value.error));
      yield value;
    }
  }
}
