// A link that has a text written again: what it followed, the settings and the seed, in the part of the address that
// browsers do not send.
const PREFIX = "#write=";
const LONGEST = 60_000; // Browsers take more; what people paste it into may not.
const MOST_CHARACTERS = 400_000;

const through = async (bytes, transformer) => new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transformer)).arrayBuffer());

/** The address of the page with a value in it. Raises RangeError where it is too long. */
export async function linkTo(value) {
  const bytes = await through(new TextEncoder().encode(JSON.stringify(value)), new CompressionStream("deflate-raw"));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const code = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  if (code.length > LONGEST) throw new RangeError("The text is too long for a link.");
  return location.origin + location.pathname + PREFIX + code;
}

/** Whether the page was opened by such a link. */
export const isLinked = () => location.hash.startsWith(PREFIX);

/** The value of the link that the page was opened by, or null. The address is plain again afterwards. */
export async function takeLink() {
  const code = location.hash.slice(PREFIX.length);
  history.replaceState(null, "", location.pathname);
  try {
    const binary = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    const json = new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw")));
    const value = json.length <= MOST_CHARACTERS ? JSON.parse(json) : null;
    return typeof value?.text === "string" ? value : null;
  } catch {
    return null;
  }
}
