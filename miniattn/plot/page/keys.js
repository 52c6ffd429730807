// ------------------------------------------------------------------------------------ keys

const KEYS = [
  ["\u2190 \u2192", "previous, next head"],
  ["Shift \u2191 \u2193", "previous, next layer"],
  ["\u2191 \u2193", "previous, next token"],
  ["Home End", "first, last token"],
  ["Enter", "pin the token, or let it go"],
  ["Esc", "let go of the token"],
  ["q", "point at queries or at keys"],
  ["v", "lines or map"],
  ["h", "lines downwards or across"],
  ["m", "one head, or the mean of the layer's heads"],
  ["w", "tokens or words"],
  ["g", "weights, gradient, weights \u00d7 gradient"],
  ["s p", "save the picture as SVG, as PNG"],
  ["/", "search; then Enter, Shift Enter: next, previous"],
  ["+ \u2212 0", "zoom in, out, back"],
  ["t", "light or dark"],
  ["?", "these keys"],
];

const ACTIONS = {
  ArrowLeft: () => choose(state.layer, state.head - 1),
  ArrowRight: () => choose(state.layer, state.head + 1),
  ArrowUp: (event) => (event.shiftKey ? choose(state.layer - 1, state.head) : move(-1)),
  ArrowDown: (event) => (event.shiftKey ? choose(state.layer + 1, state.head) : move(1)),
  Home: () => go(0),
  End: () => go(head.tokens[state.side].length - 1),
  Enter: () => state.token !== null && pin({ side: state.side, token: state.token }),
  Escape: () => pin(null),
  q: () => point(state.side === "query" ? "key" : "query"),
  v: () => view(state.view === "lines" ? "map" : "lines"),
  h: () => state.view === "lines" && turn(),
  m: () => press("mean"),
  w: () => press("words"),
  g: () => nextValue(),
  s: () => save("svg"),
  p: () => save("png"),
  t: () => switchTheme(),
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  0: () => zoom(1 / state.zoom),
};

// Do what a button does, if the page has it.
const press = (id) => $(id).hidden || $(id).click();

function keydown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || !head) return;
  const where = event.target;
  if (where.id === "search") {
    if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") stage.focus();
    else return;
    event.preventDefault();
    return;
  }
  if (where.matches("select, input") && event.key !== "Escape") return;
  if (where.matches("button") && event.key === "Enter") return;
  const action = ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

