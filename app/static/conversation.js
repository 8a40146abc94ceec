// A conversation as a tree: an edited question or another answer is a branch beside the first one.

/** The messages from the beginning to the end, along the branch that is chosen at each fork. */
export class Conversation {
  constructor(kept = null) {
    this.system = kept?.system ?? "";
    this.root = kept?.root ?? { children: [], chosen: 0 };
  }

  get path() {
    const path = [];
    let node = this.root;
    while (node.children.length) {
      node = node.children[node.chosen];
      path.push(node);
    }
    return path;
  }

  get last() {
    return this.path.at(-1) ?? this.root;
  }

  parent(of) {
    let node = this.root;
    while (node && !node.children.includes(of)) node = node.children[node.chosen];
    return node;
  }

  /** Add a message after another one, beside those that are there, and choose it. */
  add(parent, role, text) {
    const node = { role, text, children: [], chosen: 0 };
    parent.chosen = parent.children.push(node) - 1;
    return node;
  }

  /** Take a message, and what follows it, away. */
  remove(node) {
    const parent = this.parent(node);
    parent.children.splice(parent.children.indexOf(node), 1);
    parent.chosen = Math.max(0, parent.children.length - 1);
  }

  /** Choose another branch at a message. */
  turn(node, step) {
    const parent = this.parent(node);
    parent.chosen = (parent.chosen + step + parent.children.length) % parent.children.length;
  }

  /** What is sent to have a message answered, or continued where it is an answer itself: up to it, what is forgotten left out. */
  messages(upTo) {
    const path = this.path.slice(0, this.path.indexOf(upTo) + 1);
    const known = path.slice(Math.max(0, ...path.map((node) => node.forgotten ?? 0)));
    const system = this.system.trim() ? [{ role: "system", content: this.system.trim() }] : [];
    return [...system, ...known.map(({ role, text }) => ({ role, content: text }))];
  }

  toJSON() {
    return { system: this.system, root: this.root };
  }
}
