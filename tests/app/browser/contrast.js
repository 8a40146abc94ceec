// Contrast as WCAG 2.2 counts it, of what axe-core leaves out: placeholders, and the borders of fields.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, index) => value * a + below[index] * (1 - a));
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const colour = parse(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, ground(element.parentElement));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const bordered = (element) => {
    for (let at = element, up = 0; at && up < 3; at = at.parentElement, up++) {
      if (parseFloat(getComputedStyle(at).borderBottomWidth) > 0 && at.clientHeight < 300) return at;
    }
    return null;
  };
  const findings = [];
  const note = (what, element, found, least) => {
    if (found < least) findings.push(`${what} ${found.toFixed(2)} < ${least}: ${element.outerHTML.slice(0, 100)}`);
  };
  for (const field of document.querySelectorAll("input, textarea, select")) {
    if (!field.checkVisibility() || field.disabled || field.type === "range" || field.tabIndex < 0) continue;
    if (field.placeholder) note("placeholder", field, contrast(over(parse(getComputedStyle(field, "::placeholder").color), ground(field)), ground(field)), 4.5);
    note("text", field, contrast(over(parse(getComputedStyle(field).color), ground(field)), ground(field)), 4.5);
    if (field.tagName === "SELECT") continue; // known by its text and its arrow
    const box = bordered(field);
    if (box) note("border", box, contrast(over(parse(getComputedStyle(box).borderBottomColor), ground(box.parentElement)), ground(box.parentElement)), 3);
  }
  // A button may be known by its text; one that shows only a sign must show that at 3, a word at 4.5.
  for (const button of document.querySelectorAll("button, [role=button], a, summary")) {
    if (!button.checkVisibility() || button.disabled || button.ariaDisabled === "true") continue;
    const least = /[\p{L}\p{N}]/u.test(button.textContent) ? 4.5 : 3;
    note("button", button, contrast(over(parse(getComputedStyle(button).color), ground(button)), ground(button)), least);
    const { backgroundColor } = getComputedStyle(button);
    if (button.matches(".primary, [aria-pressed=true], [aria-checked=true]") && parse(backgroundColor)[3] === 1) {
      note("fill", button, Math.max(contrast(ground(button), ground(button.parentElement)), contrast(over(parse(getComputedStyle(button).borderBottomColor), ground(button.parentElement)), ground(button.parentElement))), 3);
    }
  }
  return findings;
}
