// -------------------------------------------------------------------------------- values

// What is on show: weights or gradients, of one head or of all on the average, by token or by word.

const VALUES = ["weights", "gradient", "weights*gradient"];
const HAS_SIGN = { weights: false, gradient: true, "weights*gradient": true };
const [UNSEEN, SEEN, BAD, ZERO] = [0, 1, 2, 3]; // kinds of cells: hidden, usual, not finite, exactly 0

// The numbers of a stored head, with the kind of each.
async function numbers(raw, value) {
  const { T, S, l, h, weights, gradient, totals } = raw;
  const cells = new Float32Array(T * S);
  const [w, g] = [weights, gradient].map((part) => (i, n) => part.codes[n] * part.unit[i]);
  const of = { weights: w, gradient: g, "weights*gradient": (i, n) => w(i, n) * g(i, n) }[value];
  for (let i = 0, n = 0; i < T; i++) for (let j = 0; j < S; j++, n++) cells[n] = of(i, n);
  const layer = page.layers[l];
  const masked = layer.masks && (await flags(layer.masks[h]));
  const bad = await flags(layer.values[value].bad[h]);
  const zero = await flags(layer.values[value].zero[h]);
  const kinds = Uint8Array.from(cells, (_, n) =>
    masked && !masked(n) ? UNSEEN : bad(n) ? BAD : zero(n) ? ZERO : SEEN);
  return { T, S, cells, kinds, totals };
}

// What cells are together: not finite if one is, hidden or 0 if all that is seen of them is.
const TOGETHER = [UNSEEN, ZERO, SEEN, BAD];
const together = (a, b) => (TOGETHER.indexOf(a) > TOGETHER.indexOf(b) ? a : b);

// The mean of heads; what one of them hides is 0 there.
function averaged(all) {
  const [{ T, S, cells: { length } }] = all;
  const share = (of) => all.reduce((sum, one) => sum + of(one), 0) / all.length;
  const cells = Float32Array.from({ length }, (_, n) => share((one) => one.cells[n]));
  const kinds = Uint8Array.from({ length }, (_, n) => all.map((one) => one.kinds[n]).reduce(together));
  const totals = all[0].totals && all[0].totals.map((_, i) => share((one) => one.totals[i]));
  return { T, S, cells, kinds, totals };
}

// The pieces of words together: over queries the mean, over keys the sum, of a gradient the mean too.
function merged(one, rows, columns, gradient) {
  const [T, S] = [rows.length, columns.length];
  const end = (starts, n, count) => starts[n + 1] ?? count;
  const [cells, kinds] = [new Float32Array(T * S), new Uint8Array(T * S)];
  for (let i = 0; i < T; i++) {
    for (let j = 0; j < S; j++) {
      const [i2, j2] = [end(rows, i, one.T), end(columns, j, one.S)];
      let sum = 0;
      for (let y = rows[i]; y < i2; y++) {
        for (let x = columns[j]; x < j2; x++) {
          sum += one.cells[y * one.S + x];
          kinds[i * S + j] = together(kinds[i * S + j], one.kinds[y * one.S + x]);
        }
      }
      cells[i * S + j] = sum / (i2 - rows[i]) / (gradient ? j2 - columns[j] : 1);
    }
  }
  const mean = (i) => {
    const part = one.totals.subarray(rows[i], end(rows, i, one.T));
    return part.reduce((a, b) => a + b, 0) / part.length;
  };
  return { T, S, cells, kinds, totals: one.totals && Float32Array.from(rows, (_, i) => mean(i)) };
}

const hasWords = (layer) => Boolean(page.starts[layer.queries] || page.starts[layer.keys]);
const startsOf = (list) => page.starts[list] ?? page.tokens[list].map((_, n) => n);

// The tokens of both sides: as they are, for the search, and as they are shown.
function tokensOf(layer, words) {
  const { queries, keys } = layer;
  const shown = (n) => page.tokens[n].map((token, i) => page.shown[n][i] ?? token);
  const texts = (n) => (words ? page.words[n] : shown(n));
  const labels = { query: texts(queries), key: queries === keys ? null : texts(keys) };
  labels.key ??= labels.query;
  const tokens = words ? page.words : page.tokens;
  return { tokens: { query: tokens[queries], key: tokens[keys] }, labels };
}

// What `state` chooses, ready to be drawn.
async function onShow({ layer: l, head: h, value, mean, words }) {
  const layer = page.layers[l];
  const chosen = await Promise.all((mean ? span(layer.heads) : [h]).map((n) => loaded(l, n)));
  const all = await Promise.all(chosen.map((raw) => numbers(raw, value)));
  let one = all.length > 1 ? averaged(all) : all[0];
  if (words) one = merged(one, startsOf(layer.queries), startsOf(layer.keys), value === "gradient");
  const { T, S, cells, kinds, totals } = one;
  const tops = Float32Array.from({ length: T }, (_, i) =>
    cells.subarray(i * S, i * S + S).reduce((a, x) => Math.max(a, Math.abs(x)), 0));
  const kind = (i, j) => kinds[i * S + j];
  return {
    T, S, cells, tops, ...tokensOf(layer, words),
    signed: HAS_SIGN[value],
    totals: value === "weights" ? totals : null,
    peak: tops.reduce((a, b) => Math.max(a, b), 0),
    weight: (i, j) => cells[i * S + j],
    seen: (i, j) => kind(i, j) !== UNSEEN,
    bad: (i, j) => kind(i, j) === BAD,
    zero: (i, j) => kind(i, j) === ZERO,
    masked: kinds.includes(UNSEEN),
    broken: kinds.includes(BAD),
    zeros: kinds.includes(ZERO),
    cuts: new Map(),
  };
}

// For each query the least size among its strongest links that make up `mass` per cent.
function cuts(head, mass) {
  if (!head.cuts.has(mass)) {
    const { T, S, cells } = head;
    const least = new Float32Array(T);
    for (let i = 0; i < T && mass < 100; i++) {
      const row = cells.slice(i * S, i * S + S).map(Math.abs).sort();
      const total = row.reduce((a, b) => a + b, 0);
      let left = total * (mass / 100 - 1e-6); // what rounding leaves over is no link
      let j = S;
      while (j > 0 && left > 0 && row[j - 1] > 0) left -= row[--j];
      least[i] = row[j] ?? 0;
    }
    head.cuts.set(mass, least);
  }
  return head.cuts.get(mass);
}

function kept(i, j) {
  const size = Math.abs(head.weight(i, j));
  return size > 0 && size >= least[i];
}

const broken = (i, j) => head.broken && head.bad(i, j);

let head = null; // what is on show
let least = null; // its cuts
