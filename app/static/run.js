// One text under way: what is sent, what comes, and the line that says how it goes.
import { announce } from "./announce.js";
import { count, duration, facts, number, ordinal, speed } from "./facts.js";
import { GoneError, stream } from "./stream.js";

const ENDS = {
  stop: "Finished",
  length: "Finished: the length is reached",
  context: "Finished: the context is full",
  incomplete: "Cut before the structure was complete: allow a greater length",
  cancelled: "Stopped",
};

/** A text that is being generated. `state` is what the status line tells; `line()` is that line. */
export class Run {
  constructor(path, wish, { onStart = () => {}, onText = () => {}, onTokens = null, onChange = () => {}, say = announce }) {
    this.path = path;
    this.wish = wish;
    this.say = say;
    this.handlers = { onStart, onText, onTokens, onChange };
    this.abort = new AbortController();
    this.state = { kind: "sending" };
    this.tokens = 0;
    this.started = null;
  }

  get isQueued() {
    return this.state.kind === "queue";
  }

  stop() {
    this.abort.abort();
  }

  /** Run to the end. Returns its figures, with `finish_reason`; an error is one of them. */
  async finish() {
    this.say("Begun");
    let end;
    try {
      for await (const event of stream(this.path, this.wish, this.abort.signal)) {
        if (event.end) end = event.end;
        else this.take(event);
      }
    } catch (error) {
      end = this.abort.signal.aborted
        ? { finish_reason: "cancelled" }
        : { finish_reason: "error", error: error.message, is_gone: error instanceof GoneError };
    }
    return this.close(end);
  }

  take(event) {
    const { onStart, onText, onTokens, onChange } = this.handlers;
    if (event.t !== undefined) {
      this.count(event.n);
      onText(event.t);
    } else if (event.tokens) {
      this.count(event.tokens.length);
      if (onTokens) onTokens(event.tokens);
      else onText(event.tokens.map(({ t }) => t).join(""));
    } else if (event.start) {
      this.start = event.start;
      this.state = { kind: "prompt" };
      onStart(event.start);
    } else if (event.loading) this.state = { kind: "loading", precision: event.loading };
    else if (event.queue) this.state = { kind: "queue", place: event.queue };
    else if (event.prompt) this.state = { kind: "prompt", done: event.prompt[0], all: event.prompt[1] };
    onChange();
  }

  count(tokens) {
    this.started ??= { time: performance.now(), tokens };
    this.tokens += tokens;
    this.state = { kind: "running" };
  }

  close(end) {
    const limit = this.start?.limit_tokens;
    const isFull = end.finish_reason === "length" && limit < (this.wish.sampling?.max_new_tokens ?? 0);
    const figures = {
      ...this.start,
      new_tokens: this.tokens,
      tokens_per_second: this.speed(),
      ...end,
      finish_reason: isFull ? "context" : end.finish_reason,
    };
    this.state = { kind: "ended", figures };
    this.say(figures.error ?? `${ENDS[figures.finish_reason]}, ${count(figures.new_tokens, "token")}`);
    this.handlers.onChange();
    return figures;
  }

  speed() {
    if (!this.started || this.tokens <= this.started.tokens) return null;
    return (this.tokens - this.started.tokens) / ((performance.now() - this.started.time) / 1000);
  }

  /** The parts of the status line; the first says how it goes. */
  line() {
    const { kind, place, precision, done, all, figures } = this.state;
    if (kind === "sending") return ["Sending…"];
    if (kind === "loading") return [`Opening ${precision}…`];
    if (kind === "queue") return [`${ordinal(place)} in line`, place === 1 ? "next" : null];
    if (kind === "prompt") {
      const part = all && done < all ? ` ${Math.round((100 * done) / all)} %` : "…";
      return [`Reading the prompt${part}`];
    }
    if (kind === "running") {
      const rate = this.speed();
      return ["Writing…", count(this.tokens, "token"), rate && speed(rate), this.context(this.tokens)].filter(Boolean);
    }
    if (figures.error) return [figures.error];
    // In the order of what people ask: what has no room at the end of the line is not shown.
    const [tokens, ...rest] = summary(figures);
    return [ENDS[figures.finish_reason], tokens, ...rest.slice(0, 1), this.context(figures.new_tokens), ...rest.slice(1)];
  }

  context(tokens) {
    if (!this.start) return null;
    return `${number(this.start.prompt_tokens + tokens)} of ${number(this.start.context_tokens)} context`;
  }
}

/** The figures of a text that has ended, for people. */
export function summary(figures) {
  return [
    count(figures.new_tokens ?? 0, "token"),
    figures.tokens_per_second && speed(figures.tokens_per_second),
    figures.first_token_seconds && `first after ${duration(figures.first_token_seconds)}`,
    figures.precision !== facts.precision && figures.precision,
    figures.seed !== undefined && `seed ${figures.seed}`,
  ].filter(Boolean);
}

/** Show a run's line in a status element. */
export function show(element, parts, isError = false) {
  element.classList.toggle("error", Boolean(isError));
  const spans = parts.filter(Boolean).map((part, index) => {
    const span = document.createElement(index ? "span" : "strong");
    span.textContent = index ? `· ${part}` : part;
    return span;
  });
  element.replaceChildren(...spans);
}
