// A text, and for its generated parts how sure the model was: { text, marks }, where a mark is
// { start, end, p, rivals: [[text, p], …] }, in the order of the text. All functions return a new passage.

/** A passage; without marks it is anybody's text. */
export const passage = (text = "", marks = []) => ({ text, marks });

/** The part from a position to another one; marks that are cut are left out. */
export function slice({ text, marks }, from, to = text.length) {
  const inside = marks.filter(({ start, end }) => start >= from && end <= to);
  return passage(text.slice(from, to), inside.map((mark) => moved(mark, -from)));
}

/** Two passages after each other. */
export function join(first, second) {
  return passage(first.text + second.text, [...first.marks, ...second.marks.map((mark) => moved(mark, first.text.length))]);
}

/** The passage after somebody edited its text: what was touched has no marks any more. */
export function edited({ text, marks }, now) {
  const least = Math.min(text.length, now.length);
  let head = 0;
  while (head < least && text[head] === now[head]) head++;
  let tail = 0;
  while (tail < least - head && text[text.length - 1 - tail] === now[now.length - 1 - tail]) tail++;
  const before = marks.filter(({ end }) => end <= head);
  const after = marks.filter(({ start }) => start >= Math.max(head, text.length - tail));
  return passage(now, [...before, ...after.map((mark) => moved(mark, now.length - text.length))]);
}

/** Add a token of the stream to a passage, in place. */
export function addToken(to, { t, p, rivals }) {
  const start = to.text.length;
  to.text += t;
  if (t && p !== null && p !== undefined) to.marks.push({ start, end: to.text.length, p, rivals });
}

/** The mark at a position of the caret: the token that it stands in, before or at the end of. */
export function markAt({ marks }, position) {
  return marks.find(({ start, end }) => start <= position && position < end) ?? marks.find(({ end }) => end === position) ?? null;
}

const moved = (mark, by) => ({ ...mark, start: mark.start + by, end: mark.end + by });
