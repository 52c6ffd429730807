// ------------------------------------------------------------------------------ choosing

let asked = 0;

async function choose(l, h) {
  const before = head?.tokens;
  l = Math.max(0, Math.min(page.layers.length - 1, l));
  h = Math.max(0, Math.min(page.layers[l].heads - 1, h));
  Object.assign(state, { layer: l, head: h, cell: null });
  if (!page.layers[l].values[state.value]) state.value = "weights";
  const turn = ++asked;
  const next = await onShow(state);
  if (turn !== asked) return; // another was chosen meanwhile
  head = Object.assign(next, { name: turn });
  const same = before && before.query === head.tokens.query && before.key === head.tokens.key;
  if (before && !same) Object.assign(state, { token: null, pinned: false });
  update();
}

// Show something else of the head that is chosen.
function set(change) {
  Object.assign(state, change);
  if ("value" in change) paintThumbnails();
  return choose(state.layer, state.head);
}

const nextValue = () => {
  const there = VALUES.filter((value) => page.layers[state.layer].values[value]);
  return set({ value: there[(there.indexOf(state.value) + 1) % there.length] });
};

function thumbnail(layer, h) {
  const value = layer.values[state.value] ? state.value : "weights";
  const { codes, shape: [rows, columns] } = layer.values[value].small;
  layer.codes ??= {};
  layer.codes[value] ??= bytes(codes);
  const part = layer.codes[value].subarray(h * rows * columns, (h + 1) * rows * columns);
  const data = new ImageData(columns, rows);
  const pixels = new Uint32Array(data.data.buffer);
  const colour = HAS_SIGN[value]
    ? (code) => theme.signed[Math.round(127.5 + ((code - 128) * 127.5) / 126)]
    : (code) => theme.ramp[Math.round(((code - 1) * 255) / 253)];
  // 0 is hidden and stays open, 255 is no finite number.
  part.forEach((code, n) => {
    if (code) pixels[n] = code === 255 ? theme.brokenPixel : colour(code);
  });
  return data;
}

// The small maps as large as lets a row of them stand beside the picture.
function fit() {
  const wide = Math.max(...page.layers.map((layer) => layer.heads));
  const few = wide <= 4 && page.layers.length <= 6;
  const room = innerWidth <= 900 ? innerWidth - 160 : 0.4 * innerWidth - 160; // names, padding, bar
  const side = Math.max(12, Math.min(few ? 44 : 26, Math.floor(room / wide) - 5));
  $("chooser").style.setProperty("--small", `${side}px`);
}

function chooser() {
  const nav = $("chooser");
  const wide = Math.max(...page.layers.map((layer) => layer.heads));
  nav.hidden = page.layers.length * wide === 1;
  fit();
  const table = element("table");
  const top = element("tr");
  top.append(element("td"));
  for (const h of span(wide)) top.append(element("th", String(h), { scope: "col" }));
  table.append(top);
  page.layers.forEach((layer, l) => {
    const row = element("tr");
    const name = element("th", "", { scope: "row", title: layer.name });
    name.append(isolated(layer.short)); // what tells it from the others
    row.append(name);
    for (const h of span(layer.heads)) {
      const button = element("button");
      button.dataset.layer = l;
      button.dataset.head = h;
      button.setAttribute("aria-label", `${layer.name}, head ${h}`);
      button.title = `${layer.name}, head ${h}`;
      const [height, width] = layer.values.weights.small.shape;
      button.append(Object.assign(document.createElement("canvas"), { width, height }));
      const cell = element("td");
      cell.append(button);
      row.append(cell);
    }
    table.append(row);
  });
  nav.replaceChildren(table);
  nav.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) state.mean = false;
    if (button) choose(Number(button.dataset.layer), Number(button.dataset.head));
  });
  nav.addEventListener("keydown", (event) => {
    const [dl, dh] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!dl && !dh) return;
    event.preventDefault();
    event.stopPropagation();
    choose(state.layer + dl, state.head + dh);
    nav.querySelector(`[data-layer="${state.layer}"][data-head="${state.head}"]`).focus();
  });
}

function paintThumbnails() {
  for (const button of document.querySelectorAll("#chooser button")) {
    const layer = page.layers[button.dataset.layer];
    button.firstChild.getContext("2d").putImageData(thumbnail(layer, Number(button.dataset.head)), 0, 0);
  }
}

