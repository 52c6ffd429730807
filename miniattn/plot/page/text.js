// -------------------------------------------------------------------------------- text

// A token in the text of the page: isolated, so that one written from right to left does not change
// places with its number.
const isolated = (text) => element("bdi", text);

// What is read as one character each.
const segmenter = globalThis.Intl?.Segmenter && new Intl.Segmenter();
const letters = (text) =>
  segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : Array.from(text);

const widths = new Map();

function width(pen, text) {
  const name = pen.font + text;
  if (!widths.has(name)) widths.set(name, pen.measureText(text).width);
  return widths.get(name);
}

function fitted(pen, text, room) {
  if (width(pen, text) <= room) return text;
  const read = letters(text);
  let [low, high] = [0, read.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (pen.measureText(read.slice(0, middle).join("") + "\u2026").width <= room) low = middle;
    else high = middle - 1;
  }
  return read.slice(0, low).join("") + "\u2026";
}

const widest = (pen, labels, limit) =>
  Math.ceil(Math.min(limit, labels.reduce((a, text) => Math.max(a, width(pen, text)), 0)));

const matches = (token) =>
  state.search !== "" && token.toLowerCase().includes(state.search.toLowerCase());

function number(w) {
  const size = Math.abs(w);
  const text = size === 0 ? "0" : size < 0.001 ? size.toExponential(0) : size.toFixed(size < 0.1 ? 3 : 2);
  return w < 0 ? `\u2212${text}` : text;
}
