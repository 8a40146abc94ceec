// Where a column leaves the first one, by token ids: two texts may look the same and be cut differently.

const ids = (column) => column.tokens.filter(([, id]) => id !== null).map(([, id]) => id);
const hasStopped = (column) => column.figures?.finish_reason === "stop";

/**
 * How a column goes beside the first one: `same` for `tokens`, `differs` after them, or `ends` after them where the other goes on.
 * A text that was cut, by its length or by hand, has not ended.
 */
export function difference(first, column) {
  const [theirs, ours] = [ids(first), ids(column)];
  const tokens = ours.findIndex((id, index) => index < theirs.length && id !== theirs[index]);
  if (tokens >= 0) return { kind: "differs", tokens };
  if (ours.length > theirs.length && hasStopped(first)) return { kind: "differs", tokens: theirs.length };
  if (ours.length < theirs.length && hasStopped(column)) return { kind: "ends", tokens: ours.length };
  return { kind: "same", tokens: Math.min(ours.length, theirs.length) };
}

/** A column's text in three: the same as the first column's, the first token that differs, what follows. */
export function parts(column, found) {
  const text = (tokens) => tokens.map(([piece]) => piece).join("");
  if (found?.kind !== "differs") return [text(column.tokens), "", ""];
  // A character of several tokens shows with the last of them: the mark is on what can be seen.
  let at = found.tokens;
  while (at < column.tokens.length - 1 && !column.tokens[at][0]) at += 1;
  return [text(column.tokens.slice(0, at)), text(column.tokens.slice(at, at + 1)), text(column.tokens.slice(at + 1))];
}
