// What grows: a scroller that stays at its end, a field that is as high as its text.

/** Keep a scroller at its end while it grows, unless the reader has scrolled away from it. `onChange` is told which it is. */
export function follower(scroller, onChange = () => {}) {
  let isFollowing = true;
  let top = 0;
  let height = 0;
  const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  const follow = (is) => {
    if (is !== isFollowing) onChange((isFollowing = is));
  };
  scroller.addEventListener(
    "scroll",
    () => {
      // Upwards in what has not shrunk is the reader's doing; the end is reached within a line.
      if (scroller.scrollTop < top - 1 && scroller.scrollHeight >= height) follow(distance() < 2);
      else if (distance() < 24) follow(true);
      top = scroller.scrollTop;
      height = scroller.scrollHeight;
    },
    { passive: true },
  );
  const toEnd = () => {
    scroller.scrollTop = scroller.scrollHeight;
    top = scroller.scrollTop;
    height = scroller.scrollHeight;
  };
  return {
    grown: () => isFollowing && toEnd(),
    toEnd: () => (toEnd(), follow(true)),
  };
}

/** Let a text field grow with its text. Returns what to call when the text was set from outside. */
export function growing(field, most = 220) {
  const grow = () => {
    field.style.height = "auto";
    const border = field.offsetHeight - field.clientHeight;
    field.style.height = `${Math.min(field.scrollHeight + border, most)}px`;
    field.style.overflowY = field.scrollHeight + border > most ? "auto" : "hidden";
  };
  field.addEventListener("input", grow);
  requestAnimationFrame(grow);
  return grow;
}
