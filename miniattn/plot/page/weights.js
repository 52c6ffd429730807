"use strict";

// Attention on one page. Text from outside goes in through textContent and fillText only, so a
// token can never become markup. Everything drawn is a function of `state`; `update` draws.

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
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
  value: "weights", // or "gradient", or "weights*gradient"
  mean: false, // of the layer's heads
  words: false, // the pieces of a word as one
  across: false, // lines from the bottom to the top
};

// ------------------------------------------------------------------------------ weights

function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

async function inflated(text) {
  const stream = new Blob([bytes(text)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

const blob = (id) => inflated($(id).textContent);

// One bit a cell, of the blob of that name; without a blob, none is set.
async function flags(name) {
  const bits = name && new Uint8Array(await blob(name));
  return (n) => (bits ? (bits[n >> 3] >> (n & 7)) & 1 : 0);
}

// One head as it is stored: number n, in row i, is codes[n] * unit[i].
async function decoded(l, h) {
  const layer = page.layers[l];
  const [T, S] = [page.tokens[layer.queries].length, page.tokens[layer.keys].length];
  const part = async (name, codes, most) => {
    const buffer = await blob(`${name}-${l}-${h}`);
    const unit = new Float32Array(buffer, 0, T).map((greatest) => greatest / most);
    const stored = new codes(buffer, 4 * T);
    return { unit, codes: layer.triangle ? squared(stored, T, S) : stored };
  };
  const [unsigned, signed] = page.bits === 8 ? [Uint8Array, Int8Array] : [Uint16Array, Int16Array];
  const weights = await part("weights", unsigned, 2 ** page.bits - 1);
  const gradient = layer.values.gradient && (await part("gradient", signed, 2 ** (page.bits - 1) - 1));
  const totals = layer.totals && new Float32Array(await inflated(layer.totals[h]));
  return { l, h, T, S, weights, gradient, totals };
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
