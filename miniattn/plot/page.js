"use strict";

// Attention on one page. Text from outside goes in through textContent and fillText only, so a
// token can never become markup. Everything drawn is a function of `state`; `update` draws.

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const most = 2 ** page.bits - 1;

const state = {
  layer: 0,
  head: 0,
  view: "lines",
  side: "query", // what is pointed at: a query (its row) or a key (its column)
  token: null, // index under the pointer or chosen by keyboard
  pinned: false,
  cell: null, // [query, key] under the pointer in the map
  mass: { lines: 90, map: 100 },
  scale: "linear",
  zoom: 1,
  search: "",
};

// ------------------------------------------------------------------------------ weights

function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

async function inflated(id) {
  const stream = new Blob([bytes($(id).textContent)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

const tokensOf = (layer) => ({
  query: page.tokens[page.layers[layer].queries],
  key: page.tokens[page.layers[layer].keys],
});

// One head: weight (i, j) = codes[i * S + j] * unit[i].
async function decoded(l, h) {
  const layer = page.layers[l];
  const tokens = tokensOf(l);
  const [T, S] = [tokens.query.length, tokens.key.length];
  const buffer = await inflated(`weights-${l}-${h}`);
  const unit = new Float32Array(buffer, 0, T).map((greatest) => greatest / most);
  const stored = new (page.bits === 8 ? Uint8Array : Uint16Array)(buffer, 4 * T);
  const codes = layer.triangle ? squared(stored, T, S) : stored;
  const bits = layer.masks && new Uint8Array(await inflated(layer.masks[h]));
  const seen = (i, j) => !bits || (bits[(i * S + j) >> 3] >> ((i * S + j) & 7)) & 1;
  const peak = unit.reduce((a, b) => Math.max(a, b), 0) * most;
  const weight = (i, j) => codes[i * S + j] * unit[i];
  return { T, S, tokens, codes, unit, peak, weight, seen, masked: Boolean(bits), cuts: new Map() };
}

// The lower triangle, aligned to the end, back in its T x S square.
function squared(stored, T, S) {
  const codes = new stored.constructor(T * S);
  for (let i = 0, from = 0; i < T; i++) {
    const n = Math.max(0, Math.min(S, S - T + i + 1));
    codes.set(stored.subarray(from, from + n), i * S);
    from += n;
  }
  return codes;
}

// For each query the least code among its strongest links that make up `mass` per cent.
function cuts(head, mass) {
  if (!head.cuts.has(mass)) {
    const { T, S, codes } = head;
    const least = new Uint16Array(T).fill(1);
    for (let i = 0; i < T && mass < 100; i++) {
      const row = codes.slice(i * S, i * S + S).sort();
      let left = (row.reduce((a, b) => a + b, 0) * mass) / 100;
      let j = S;
      while (j > 0 && left > 0 && row[j - 1] > 0) left -= row[--j];
      least[i] = Math.max(1, row[j] || 1);
    }
    head.cuts.set(mass, least);
  }
  return head.cuts.get(mass);
}

const kept = (i, j) => head.codes[i * head.S + j] >= least[i];

const heads = new Map(); // decoded ones, least recently used first
const KEEP = 24;

function loaded(l, h) {
  const name = `${l}-${h}`;
  const promise = heads.get(name) ?? decoded(l, h);
  heads.delete(name);
  heads.set(name, promise);
  if (heads.size > KEEP) heads.delete(heads.keys().next().value);
  return promise;
}

let head = null; // the decoded head on show
let least = null; // its cuts

// ------------------------------------------------------------------------------ colours

// Lightness runs one way in both maps, so they serve any colour vision, and print in grey.
const RAMPS = {
  light: [[250, 249, 246], [203, 221, 236], [116, 166, 208], [40, 98, 165], [12, 30, 80]],
  dark: [[25, 28, 34], [27, 58, 102], [43, 116, 166], [116, 187, 203], [251, 245, 216]],
};
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = {};

function readTheme() {
  const root = document.documentElement;
  const name = root.classList.contains("dark") || (dark.matches && !root.classList.contains("light"))
    ? "dark" : "light";
  const style = getComputedStyle($("stage"));
  const probe = document.createElement("i");
  document.body.append(probe);
  const colour = (variable) => {
    probe.style.color = `var(--${variable})`;
    return getComputedStyle(probe).color;
  };
  theme = { name, ramp: ramp(RAMPS[name]), font: style.fontFamily };
  for (const v of ["paper", "ink", "quiet", "rule", "query", "key", "found"]) theme[v] = colour(v);
  probe.remove();
  theme.hatch = hatch(theme.quiet);
}

function ramp(anchors) {
  const colours = new Uint32Array(256);
  for (let c = 0; c < 256; c++) {
    const at = (c / 255) * (anchors.length - 1);
    const k = Math.min(Math.floor(at), anchors.length - 2);
    const [r, g, b] = anchors[k].map((x, n) => Math.round(x + (at - k) * (anchors[k + 1][n] - x)));
    colours[c] = (255 << 24) | (b << 16) | (g << 8) | r; // RGBA bytes, little-endian
  }
  return colours;
}

function hatch(colour) {
  const tile = Object.assign(document.createElement("canvas"), { width: 6, height: 6 });
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.5;
  for (const x of [-6, 0, 6]) line(pen, x, 6, x + 6, 0);
  return pen.createPattern(tile, "repeat");
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

// Where on the colour scale a weight lies, 0 to 1.
function shade(weight, i) {
  const top = state.scale === "row" ? head.unit[i] * most : head.peak;
  if (!(top > 0)) return 0;
  return state.scale === "log" ? Math.max(0, 1 + Math.log10(weight / top) / 4) : weight / top;
}

function image() {
  const { T, S } = head;
  const canvas = Object.assign(document.createElement("canvas"), { width: S, height: T });
  const pen = canvas.getContext("2d");
  const data = pen.createImageData(S, T);
  const pixels = new Uint32Array(data.data.buffer);
  for (let i = 0, n = 0; i < T; i++) {
    for (let j = 0; j < S; j++, n++) {
      if (!head.seen(i, j)) continue; // stays transparent: the hatch below shows
      const t = kept(i, j) ? shade(head.weight(i, j), i) : 0;
      pixels[n] = theme.ramp[Math.round(255 * t)];
    }
  }
  pen.putImageData(data, 0, 0);
  return canvas;
}

// -------------------------------------------------------------------------------- text

// Blanks, control characters, direction marks and line separators become visible.
function visible(token) {
  if (/^ *$/.test(token)) return "\u2423".repeat(token.length);
  return token.replace(/(?![\u200c\u200d])[\p{C}\p{Zl}\p{Zp}]/gu, (c) => {
    const known = { "\n": "\\n", "\t": "\\t", "\r": "\\r" }[c];
    return known ?? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
  });
}

const widths = new Map();

function width(pen, text) {
  const name = pen.font + text;
  if (!widths.has(name)) widths.set(name, pen.measureText(text).width);
  return widths.get(name);
}

function fitted(pen, text, room) {
  if (width(pen, text) <= room) return text;
  const letters = Array.from(text);
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (pen.measureText(letters.slice(0, middle).join("") + "\u2026").width <= room) low = middle;
    else high = middle - 1;
  }
  return letters.slice(0, low).join("") + "\u2026";
}

const widest = (pen, tokens, limit) =>
  Math.ceil(Math.min(limit, tokens.reduce((a, t) => Math.max(a, width(pen, visible(t))), 0)));

const matches = (token) =>
  state.search !== "" && token.toLowerCase().includes(state.search.toLowerCase());

const number = (w) => (w === 0 ? "0" : w < 0.001 ? w.toExponential(0) : w.toFixed(w < 0.1 ? 3 : 2));

// ------------------------------------------------------------------------------- stage

const stage = $("stage");
const canvas = $("canvas");
const pen = canvas.getContext("2d");
let box = {}; // where things lie, for the pointer

function draw() {
  const [W, H] = [stage.clientWidth, stage.clientHeight];
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(W * ratio) || canvas.height !== Math.round(H * ratio)) {
    canvas.width = Math.round(W * ratio);
    canvas.height = Math.round(H * ratio);
    canvas.style.width = `${W}px`;
    canvas.style.height = `${H}px`;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, W, H);
  pen.textBaseline = "middle";
  (state.view === "lines" ? drawLines : drawMap)(W, H);
}

function resizeExtent(w, h) {
  $("extent").style.width = `${Math.max(w, stage.clientWidth)}px`;
  $("extent").style.height = `${Math.max(h, stage.clientHeight)}px`;
}

// --- lines

const TOP = 34;

function placeLines(W) {
  const step = Math.round(24 * state.zoom);
  const size = Math.max(7, Math.min(15, step * 0.6));
  pen.font = `${size}px ${theme.font}`;
  const { query, key } = head.tokens;
  const room = Math.min(200, W * 0.3);
  const [left, right] = [widest(pen, query, room), widest(pen, key, room)];
  const numbers = 44; // the weights beside the keys or queries
  const gap = Math.max(90, Math.min(420, W - left - right - 2 * numbers - 48));
  const start = Math.max(24, (W - left - gap - right) / 2);
  box = { step, size, room, x1: start + left, x2: start + left + gap, left, right };
  resizeExtent(0, TOP + step * Math.max(head.T, head.S) + 16);
}

const lineY = (i) => TOP + (i + 0.5) * box.step - stage.scrollTop;

function drawLines(W, H) {
  placeLines(W);
  const { x1, x2, step } = box;
  const first = Math.max(0, Math.floor((stage.scrollTop - TOP) / step));
  const last = Math.ceil((stage.scrollTop + H - TOP) / step);
  drawCurves(first, last);
  drawTokens("query", first, last);
  drawTokens("key", first, last);
  pen.fillStyle = theme.paper;
  pen.fillRect(0, 0, W, TOP - 6);
  pen.font = `12px ${theme.font}`;
  pen.textAlign = "right";
  pen.fillStyle = theme.query;
  pen.fillText("query", x1, 16);
  pen.textAlign = "left";
  pen.fillStyle = theme.key;
  pen.fillText("key", x2, 16);
}

// Curves of like strength make one path: a few strokes a frame, whatever the number of links.
const SHADES = 24;

function drawCurves(first, last) {
  const paths = Array.from({ length: SHADES }, () => new Path2D());
  const { x1, x2 } = box;
  const [a, b] = [x1 + 7, x2 - 7];
  const add = (i, j, t) => {
    if (t <= 0) return;
    const [y1, y2] = [lineY(i), lineY(j)];
    const path = paths[Math.min(SHADES - 1, Math.floor(t * SHADES))];
    path.moveTo(a, y1);
    path.bezierCurveTo((a + b) / 2, y1, (a + b) / 2, y2, b, y2);
  };
  const inside = (n) => n >= first && n < last;
  const top = reach();
  for (const i of state.token !== null && state.side === "query" ? [state.token] : span(head.T)) {
    for (const j of state.token !== null && state.side === "key" ? [state.token] : span(head.S)) {
      if ((inside(i) || inside(j)) && kept(i, j)) add(i, j, head.weight(i, j) / top);
    }
  }
  pen.strokeStyle = state.token === null ? theme.query : theme[state.side];
  pen.lineCap = "round";
  paths.forEach((path, k) => {
    const t = (k + 0.5) / SHADES;
    pen.globalAlpha = state.token === null ? 0.04 + 0.76 * t ** 0.9 : 0.12 + 0.85 * t;
    pen.lineWidth = 0.6 + 2.6 * t;
    pen.stroke(path);
  });
  pen.globalAlpha = 1;
}

const span = (n) => Array.from({ length: n }, (_, i) => i);

// The greatest weight among the links on show: lines are drawn relative to it.
function reach() {
  if (state.token === null) return head.peak || 1;
  const count = state.side === "query" ? head.S : head.T;
  return span(count).reduce((a, n) => Math.max(a, linkWeight(n)), 0) || 1;
}

const linkCell = (n) => (state.side === "query" ? [state.token, n] : [n, state.token]);
const linkWeight = (n) => head.weight(...linkCell(n));

function drawTokens(side, first, last) {
  const tokens = head.tokens[side];
  const { step, size, room, left, right } = box;
  const x = side === "query" ? box.x1 : box.x2;
  const away = side === "query" ? -1 : 1;
  const wide = (side === "query" ? left : right) + 8;
  const other = state.token !== null && state.side !== side;
  const top = other ? reach() : 1;
  pen.textAlign = side === "query" ? "right" : "left";
  for (let n = first; n < Math.min(last, tokens.length); n++) {
    const y = lineY(n);
    const own = state.side === side && state.token === n;
    const shown = other && kept(...linkCell(n)) ? linkWeight(n) : 0;
    const hidden = other && !head.seen(...linkCell(n));
    if (matches(tokens[n])) bar(x, y, away * wide, theme.found, 1);
    if (shown) bar(x, y, away * wide, theme[state.side], 0.06 + 0.34 * (shown / top));
    if (own) bar(x, y, away * wide, theme[side], 1);
    if (hidden) bar(x, y, away * wide, theme.hatch, 0.8);
    pen.fillStyle = own ? theme.paper : other && !shown ? theme.quiet : theme.ink;
    pen.globalAlpha = other && !shown ? 0.75 : 1;
    pen.font = `${own ? "600 " : ""}${size}px ${theme.font}`;
    pen.fillText(fitted(pen, visible(tokens[n]), room), x, y);
    pen.globalAlpha = 1;
    if (shown) {
      pen.font = `${size * 0.8}px ${theme.font}`;
      pen.fillStyle = theme.quiet;
      pen.fillText(number(shown), x + away * (wide + 6), y);
    }
    if (own && state.pinned) disc(x + away * (wide + 9), y, theme[side]);
  }
  function bar(from, y, w, colour, alpha) {
    pen.globalAlpha = alpha;
    pen.fillStyle = colour;
    pen.beginPath();
    pen.roundRect(Math.min(from - 4 * away, from - 4 * away + w + 4 * away), y - step / 2 + 1, Math.abs(w) + 4, step - 2, 3);
    pen.fill();
    pen.globalAlpha = 1;
  }
}

function disc(x, y, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, 3, 0, 7);
  pen.fill();
}

// --- map

let drawn = { canvas: null, of: null };

function picture() {
  const of = [state.layer, state.head, state.scale, state.mass.map, theme.name].join();
  if (drawn.of !== of) drawn = { of, canvas: image() };
  return drawn.canvas;
}

const LARGEST = 38; // pixels a cell, before zooming

function placeMap(W, H) {
  const { T, S, tokens } = head;
  pen.font = `12px ${theme.font}`;
  const rows = widest(pen, tokens.query, Math.min(150, W * 0.25));
  const columns = widest(pen, tokens.key, Math.min(120, H * 0.25));
  const [x, y] = [rows + 40, columns + 40];
  const fit = Math.min((W - x - 24) / S, (H - y - 16) / T, LARGEST);
  const wanted = Math.max(fit, 1.5) * state.zoom;
  const cell = wanted > 3 ? Math.floor(wanted) : wanted; // whole pixels: no uneven cells
  const spare = Math.max(0, (W - x - S * cell - 24) / 2);
  box = { x: x + spare, y, cell, rows, columns };
  resizeExtent(box.x + S * cell + 24, y + T * cell + 16);
}

function drawMap(W, H) {
  placeMap(W, H);
  const { x, y, cell } = box;
  const { T, S } = head;
  const [left, top] = [x - stage.scrollLeft, y - stage.scrollTop];
  pen.save();
  pen.beginPath();
  pen.rect(x, y, W - x, H - y);
  pen.clip();
  if (head.masked) {
    pen.fillStyle = theme.hatch;
    pen.fillRect(left, top, S * cell, T * cell);
  }
  pen.imageSmoothingEnabled = cell < 1;
  pen.drawImage(picture(), left, top, S * cell, T * cell);
  if (cell >= 12) separate(left, top, W, H);
  pen.strokeStyle = theme.rule;
  pen.lineWidth = 1;
  pen.strokeRect(left - 0.5, top - 0.5, S * cell + 1, T * cell + 1);
  mark(left, top);
  pen.restore();
  labelRows(top, H);
  labelColumns(left, W);
}

function separate(left, top, W, H) {
  const { cell } = box;
  pen.strokeStyle = theme.paper;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let j = 1; j < head.S; j++) {
    const at = left + j * cell;
    if (at < 0 || at > W) continue;
    pen.moveTo(at, top);
    pen.lineTo(at, top + head.T * cell);
  }
  for (let i = 1; i < head.T; i++) {
    const at = top + i * cell;
    if (at < 0 || at > H) continue;
    pen.moveTo(left, at);
    pen.lineTo(left + head.S * cell, at);
  }
  pen.stroke();
}

// A frame around the row or column of the token, and around the cell under the pointer.
function mark(left, top) {
  const { cell } = box;
  const frame = (i, j, h, w, colour) => {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.strokeRect(left + j * cell - 1, top + i * cell - 1, w * cell + 2, h * cell + 2);
  };
  if (state.token !== null) {
    if (state.side === "query") frame(state.token, 0, 1, head.S, theme.query);
    else frame(0, state.token, head.T, 1, theme.key);
  }
  if (state.cell) frame(...state.cell, 1, 1, theme.ink);
}

// As many labels as fit; those of the token and of the cell always, with their neighbours left out.
function* labelled(side, tokens, cell) {
  const step = stride(15 / cell);
  const special = new Set();
  if (state.token !== null && state.side === side) special.add(state.token);
  if (state.cell) special.add(state.cell[side === "query" ? 0 : 1]);
  const clear = Math.ceil(15 / cell);
  for (let n = 0; n < tokens.length; n += step) {
    if (![...special].some((s) => Math.abs(s - n) < clear)) yield [n, false];
  }
  for (const s of special) yield [s, true];
}

function stride(least) {
  for (let decade = 1; ; decade *= 10) {
    for (const k of [1, 2, 5]) if (k * decade >= least) return k * decade;
  }
}

function labelRows(top, H) {
  const { x, y, cell, rows } = box;
  pen.textAlign = "right";
  for (const [n, special] of labelled("query", head.tokens.query, cell)) {
    const at = top + (n + 0.5) * cell;
    if (at < y || at > H) continue;
    label(head.tokens.query[n], "query", special, x - 8, at, rows);
  }
  axis("query", theme.query, x - rows - 24, y + Math.min(H - y, head.T * cell) / 2, -Math.PI / 2);
}

function labelColumns(left, W) {
  const { x, y, cell, columns } = box;
  for (const [n, special] of labelled("key", head.tokens.key, cell)) {
    const at = left + (n + 0.5) * cell;
    if (at < x || at > W) continue;
    pen.save();
    pen.translate(at, y - 8);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    label(head.tokens.key[n], "key", special, 0, 0, columns);
    pen.restore();
  }
  axis("key", theme.key, x + Math.min(W - x, head.S * cell) / 2, y - columns - 22, 0);
}

function label(token, side, special, x, y, room) {
  pen.font = `${special ? "600 " : ""}12px ${theme.font}`;
  const text = fitted(pen, visible(token), room + 4);
  if (matches(token)) {
    const w = pen.measureText(text).width;
    pen.fillStyle = theme.found;
    pen.fillRect(pen.textAlign === "right" ? x - w - 3 : x - 3, y - 7, w + 6, 14);
  }
  pen.fillStyle = special ? theme[side] : theme.ink;
  pen.fillText(text, x, y);
}

function axis(text, colour, x, y, angle) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(angle);
  pen.font = `12px ${theme.font}`;
  pen.textAlign = "center";
  pen.fillStyle = colour;
  pen.fillText(text, 0, 0);
  pen.restore();
}

// ------------------------------------------------------------------------------- beside

const LISTED = 40;

function element(tag, text = "", more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

function list() {
  const aside = $("links");
  aside.className = `of-${state.side}`;
  const items = [];
  if (state.token === null) {
    $("subject").replaceChildren("No token chosen");
    $("summary").textContent = "Point at a token to see its links; click to pin it.";
  } else {
    const query = state.side === "query";
    const [own, others] = query ? ["query", "key"] : ["key", "query"];
    const tokens = head.tokens[others];
    const all = span(tokens.length).filter((n) => kept(...linkCell(n)));
    all.sort((a, b) => linkWeight(b) - linkWeight(a) || a - b);
    const total = all.reduce((sum, n) => sum + linkWeight(n), 0);
    const name = visible(head.tokens[own][state.token]);
    $("subject").replaceChildren(name, " ", element("small", `${own} ${state.token}${state.pinned ? ", pinned" : ""}`));
    const kinds = `${all.length} of ${tokens.length} ${query ? "keys" : "queries"}`;
    $("summary").textContent = query
      ? `reads ${kinds}, together ${number(total)}`
      : `read by ${kinds}`;
    const top = reach();
    for (const n of all.slice(0, LISTED)) {
      const item = element("li");
      const what = element("span", visible(tokens[n]));
      what.append(" ", element("small", String(n)));
      const bar = element("i");
      bar.style.width = `${(100 * linkWeight(n)) / top}%`;
      item.append(what, element("span", number(linkWeight(n))), bar);
      items.push(item);
    }
    if (all.length > LISTED) items.push(element("li", `and ${all.length - LISTED} weaker`));
  }
  $("list").replaceChildren(...items);
}

function status() {
  if (state.view === "map" && state.cell) {
    const [i, j] = state.cell;
    const names = `${visible(head.tokens.query[i])} (${i}) \u2192 ${visible(head.tokens.key[j])} (${j})`;
    return `${names}: ${head.seen(i, j) ? number(head.weight(i, j)) : "masked"}`;
  }
  if (state.token === null) return "";
  return `${$("subject").textContent}: ${$("summary").textContent}`;
}

function legend() {
  const strip = $("ramp").getContext("2d");
  const data = strip.createImageData(120, 8);
  const pixels = new Uint32Array(data.data.buffer);
  pixels.forEach((_, n) => (pixels[n] = theme.ramp[Math.round(((n % 120) / 119) * 255)]));
  strip.putImageData(data, 0, 0);
  const end = { linear: number(head.peak), row: "greatest of row", log: number(head.peak) };
  $("most").textContent = end[state.scale];
  $("ramp").parentElement.hidden = state.view === "lines";
  $("ramp").previousElementSibling.textContent = state.scale === "log" ? number(head.peak / 1e4) : "0";
  const swatch = $("hatch").getContext("2d");
  swatch.clearRect(0, 0, 18, 10);
  swatch.fillStyle = theme.hatch;
  swatch.fillRect(0, 0, 18, 10);
  $("masked").hidden = !head.masked;
}

function controls() {
  const press = (id, on) => $(id).setAttribute("aria-pressed", String(on));
  press("lines", state.view === "lines");
  press("map", state.view === "map");
  press("of-query", state.side === "query");
  press("of-key", state.side === "key");
  $("mass").value = state.mass[state.view];
  $("share").textContent = `${state.mass[state.view]} %`;
  $("scale").value = state.scale;
  $("scale").parentElement.hidden = state.view === "lines";
  const layer = page.layers[state.layer];
  $("where").textContent = `${layer.name}, head ${state.head}`;
  const sizes = head.T === head.S ? `${head.T} tokens` : `${head.T} queries, ${head.S} keys`;
  stage.setAttribute("aria-label", `Attention of ${layer.name}, head ${state.head}: ${sizes}, as ${state.view}`);
  for (const button of document.querySelectorAll("#chooser button")) {
    const on = Number(button.dataset.layer) === state.layer && Number(button.dataset.head) === state.head;
    button.setAttribute("aria-pressed", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  const hits = found().length;
  $("found").textContent = state.search ? `${hits} found` : "";
}

let frame = 0;

// Everything on the page follows from the state; at most once a frame.
function update() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!head) return;
    least = cuts(head, state.mass[state.view]);
    controls();
    legend();
    list();
    $("status").textContent = status();
    draw();
  });
}

// ------------------------------------------------------------------------------ choosing

async function choose(l, h) {
  const before = head?.tokens;
  l = Math.max(0, Math.min(page.layers.length - 1, l));
  h = Math.max(0, Math.min(page.layers[l].heads - 1, h));
  Object.assign(state, { layer: l, head: h, cell: null });
  const next = await loaded(l, h);
  if (state.layer !== l || state.head !== h) return; // another was chosen meanwhile
  head = next;
  const same = before && before.query === head.tokens.query && before.key === head.tokens.key;
  if (before && !same) Object.assign(state, { token: null, pinned: false });
  update();
}

function thumbnail(layer, h) {
  const [rows, columns] = layer.small.shape;
  const codes = layer.codes.subarray(h * rows * columns, (h + 1) * rows * columns);
  const data = new ImageData(columns, rows);
  const pixels = new Uint32Array(data.data.buffer);
  codes.forEach((code, n) => (pixels[n] = theme.ramp[code]));
  return data;
}

function chooser() {
  const nav = $("chooser");
  const wide = Math.max(...page.layers.map((layer) => layer.heads));
  nav.hidden = page.layers.length * wide === 1;
  nav.classList.toggle("few", wide <= 4 && page.layers.length <= 6);
  const table = element("table");
  const top = element("tr");
  top.append(element("td"));
  for (const h of span(wide)) top.append(element("th", String(h), { scope: "col" }));
  table.append(top);
  page.layers.forEach((layer, l) => {
    layer.codes = bytes(layer.small.codes);
    const row = element("tr");
    // Isolated, as the cell is set right to left so that its start is what gets cut off.
    row.append(element("th", `\u2068${layer.name}\u2069`, { scope: "row", title: layer.name }));
    for (const h of span(layer.heads)) {
      const button = element("button");
      button.dataset.layer = l;
      button.dataset.head = h;
      button.setAttribute("aria-label", `${layer.name}, head ${h}`);
      button.title = `${layer.name}, head ${h}`;
      const [height, width] = layer.small.shape;
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

// ------------------------------------------------------------------------------- pointing

// What lies at a point of the stage: {side, token} or {cell}.
function at(event) {
  const rect = canvas.getBoundingClientRect();
  const [px, py] = [event.clientX - rect.left, event.clientY - rect.top];
  if (state.view === "lines") {
    const token = Math.floor((py + stage.scrollTop - TOP) / box.step);
    const middle = (box.x1 + box.x2) / 2;
    const side = px < middle ? "query" : "key";
    const near = px < box.x1 + 24 || px > box.x2 - 24;
    return near && py >= TOP - 6 && token >= 0 && token < head.tokens[side].length ? { side, token } : null;
  }
  const i = Math.floor((py + stage.scrollTop - box.y) / box.cell);
  const j = Math.floor((px + stage.scrollLeft - box.x) / box.cell);
  const [inRows, inColumns] = [py >= box.y && i < head.T, px >= box.x && j < head.S];
  if (inRows && inColumns) return { cell: [i, j], side: state.side, token: state.side === "query" ? i : j };
  if (inRows && i >= 0) return { side: "query", token: i };
  if (inColumns && j >= 0) return { side: "key", token: j };
  return null;
}

function hover(event) {
  if (!head) return;
  const hit = at(event);
  const before = [state.side, state.token, state.cell].join();
  state.cell = hit?.cell ?? null;
  if (!state.pinned) Object.assign(state, { side: hit?.side ?? state.side, token: hit?.token ?? null });
  if (before !== [state.side, state.token, state.cell].join()) update();
}

function pin(hit) {
  const again = state.pinned && hit && hit.side === state.side && hit.token === state.token;
  if (!hit || again) state.pinned = false;
  else Object.assign(state, { side: hit.side, token: hit.token, pinned: true });
  if (!hit) state.token = null;
  update();
}

function view(name) {
  Object.assign(state, { view: name, cell: null, zoom: 1 });
  stage.scrollTo(0, 0);
  update();
  if (state.token !== null) requestAnimationFrame(reveal);
}

function point(side) {
  const other = state.side !== side;
  Object.assign(state, { side, cell: null });
  if (other && state.token !== null) {
    state.token = Math.min(state.token, head.tokens[side].length - 1);
  }
  update();
}

function move(step) {
  const count = head.tokens[state.side].length;
  const from = state.token ?? (step > 0 ? -1 : count);
  go(Math.max(0, Math.min(count - 1, from + step)));
}

// A token chosen by keyboard stays while the mouse moves: it is pinned.
function go(token) {
  Object.assign(state, { token, pinned: true, cell: null });
  update();
  requestAnimationFrame(reveal);
}

function reveal() {
  if (state.token === null) return;
  if (state.view === "lines") {
    const y = state.token * box.step;
    into("scrollTop", y, y + box.step, stage.clientHeight - TOP - 16);
  } else {
    const near = state.token * box.cell;
    if (state.side === "query") into("scrollTop", near, near + box.cell, stage.clientHeight - box.y - 16);
    else into("scrollLeft", near, near + box.cell, stage.clientWidth - box.x - 24);
  }
}

function into(scroll, from, to, room) {
  if (from < stage[scroll] || to > stage[scroll] + room) stage[scroll] = (from + to - room) / 2;
}

function zoom(factor) {
  state.zoom = Math.max(0.5, Math.min(24, state.zoom * factor));
  if (state.view === "lines") state.zoom = Math.min(state.zoom, 2);
  update();
}

// ---------------------------------------------------------------------------------- search

const found = () =>
  ["query", "key"].flatMap((side) =>
    side === "key" && head.tokens.key === head.tokens.query
      ? []
      : span(head.tokens[side].length)
          .filter((n) => matches(head.tokens[side][n]))
          .map((token) => ({ side, token })),
  );

// The next or previous match after the token on show, round the end.
function next(step) {
  const hits = found();
  if (!hits.length) return;
  const same = head.tokens.key === head.tokens.query;
  const here = hits.findIndex((hit) => hit.token === state.token && (same || hit.side === state.side));
  const hit = hits[here < 0 ? (step > 0 ? 0 : hits.length - 1) : (here + step + hits.length) % hits.length];
  if (!same) state.side = hit.side;
  go(hit.token);
}

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
  t: () => switchTheme(),
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  0: () => zoom(1 / state.zoom),
};

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

// ----------------------------------------------------------------------------------- start

function switchTheme() {
  const name = theme.name === "dark" ? "light" : "dark";
  document.documentElement.classList.remove("dark", "light");
  document.documentElement.classList.add(name);
  repaint();
}

function repaint() {
  readTheme();
  paintThumbnails();
  update();
}

function listen() {
  $("lines").onclick = () => view("lines");
  $("map").onclick = () => view("map");
  $("of-query").onclick = () => point("query");
  $("of-key").onclick = () => point("key");
  $("theme").onclick = switchTheme;
  $("ask").onclick = () => $("help").showModal();
  $("mass").oninput = (event) => {
    state.mass[state.view] = Number(event.target.value);
    update();
  };
  $("scale").onchange = (event) => {
    state.scale = event.target.value;
    update();
  };
  $("search").oninput = (event) => {
    state.search = event.target.value;
    update();
  };
  stage.addEventListener("pointermove", hover);
  stage.addEventListener("pointerleave", () => {
    state.cell = null;
    if (!state.pinned) state.token = null;
    update();
  });
  stage.addEventListener("click", (event) => head && pin(at(event)));
  stage.addEventListener("scroll", update, { passive: true });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, { passive: false });
  document.addEventListener("keydown", keydown);
  dark.addEventListener("change", repaint);
  new ResizeObserver(update).observe(stage);
}

async function start() {
  $("title").textContent = page.title;
  for (const [key, what] of KEYS) $("keys").append(element("dt", key), element("dd", what));
  chooser();
  readTheme();
  paintThumbnails();
  listen();
  await choose(0, 0);
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // ms since opening
}

start();
