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

// The tokens of both sides: as they are, for the search, and as they are shown.
function tokensOf(l) {
  const { queries, keys } = page.layers[l];
  const shown = (n) => page.tokens[n].map((token, i) => page.shown[n][i] ?? token);
  const labels = { query: shown(queries), key: queries === keys ? null : shown(keys) };
  labels.key ??= labels.query;
  return { tokens: { query: page.tokens[queries], key: page.tokens[keys] }, labels };
}

// Whether cell (i, j) is set in the blob of that name, one bit a cell; without a blob, `none`.
async function flags(name, S, none) {
  const bits = name && new Uint8Array(await inflated(name));
  return (i, j) => (bits ? Boolean((bits[(i * S + j) >> 3] >> ((i * S + j) & 7)) & 1) : none);
}

// One head: weight (i, j) = codes[i * S + j] * unit[i]; `bad` where it is no finite number.
async function decoded(l, h) {
  const layer = page.layers[l];
  const { tokens, labels } = tokensOf(l);
  const [T, S] = [tokens.query.length, tokens.key.length];
  const buffer = await inflated(`weights-${l}-${h}`);
  const unit = new Float32Array(buffer, 0, T).map((greatest) => greatest / most);
  const stored = new (page.bits === 8 ? Uint8Array : Uint16Array)(buffer, 4 * T);
  const codes = layer.triangle ? squared(stored, T, S) : stored;
  const seen = await flags(layer.masks?.[h], S, true);
  const bad = await flags(layer.bad[h], S, false);
  const peak = unit.reduce((a, b) => Math.max(a, b), 0) * most;
  const weight = (i, j) => codes[i * S + j] * unit[i];
  const kinds = { masked: Boolean(layer.masks), broken: Boolean(layer.bad[h]), sums: layer.sums };
  return { T, S, tokens, labels, codes, unit, peak, weight, seen, bad, ...kinds, cuts: new Map() };
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
const broken = (i, j) => head.broken && head.seen(i, j) && head.bad(i, j);

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

