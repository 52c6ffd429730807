"use strict";
// The arithmetic of the page: every line of the forward and of the backward, with the formula of each
// number and the slope of that number by each of those that it is made of.

const shown = (x) =>
  x === -Infinity ? "-inf" : Math.abs(x) < 5e-4 && x !== 0 ? x.toExponential(1) : x.toFixed(3);
const range = (n) => [...Array(n).keys()];

// out = factor * (a or its transpose) @ (b or its transpose), summed over several such products.
function product(name, title, parts, after) {
  const pairs = (v, part, i, j) => {
    const [a, b] = [v[part.a], v[part.b]];
    return range(part.at ? a.length : a[0].length).map((n) => ({
      a: part.at ? a[n][i] : a[i][n],
      b: part.bt ? b[j][n] : b[n][j],
      atA: `${part.a}[${part.at ? [n, i] : [i, n]}]`,
      atB: `${part.b}[${part.bt ? [j, n] : [n, j]}]`,
    }));
  };
  const scale = (v, part) => (part.scaled ? v.scale : 1);
  return {
    name,
    title,
    reads: [...new Set(parts.flatMap((part) => [part.a, part.b]))],
    size: (v) => {
      const { a, at, b, bt } = parts[0];
      return [at ? v[a][0].length : v[a].length, bt ? v[b].length : v[b][0].length];
    },
    value: (v, i, j) => {
      if (after && !after(v, i, j)) return -Infinity;
      const sums = parts.map((part) =>
        scale(v, part) * pairs(v, part, i, j).reduce((sum, p) => sum + p.a * p.b, 0));
      return sums.reduce((a, b) => a + b, 0);
    },
    formula: (v, i, j) => {
      if (after && !after(v, i, j)) return "hidden by the mask";
      return parts.map((part) => {
        const sum = pairs(v, part, i, j).map((p) => `${shown(p.a)}*${shown(p.b)}`).join(" + ");
        return part.scaled ? `${shown(v.scale)} (${sum})` : sum;
      }).join("\n  + ");
    },
    slopes: (v, i, j) => {
      if (after && !after(v, i, j)) return [];
      return parts.flatMap((part) => pairs(v, part, i, j).flatMap((p) => [
        [p.atA, scale(v, part) * p.b],
        [p.atB, scale(v, part) * p.a],
      ]));
    },
  };
}

const softmax = {
  name: "weights",
  title: "weights = softmax(scores)",
  reads: ["scores"],
  size: (v) => [v.scores.length, v.scores[0].length],
  value: (v, i, j) => {
    const row = v.scores[i];
    const top = Math.max(...row);
    if (top === -Infinity) return 0;
    const total = row.reduce((sum, s) => sum + Math.exp(s - top), 0);
    return Math.exp(row[j] - top) / total;
  },
  formula: (v, i, j) =>
    `exp(${shown(v.scores[i][j])}) / (${v.scores[i].map((s) => `exp(${shown(s)})`).join(" + ")})`,
  slopes: (v, i, j) => v.scores[i].map((_, n) => {
    const [w, other] = [softmax.value(v, i, j), softmax.value(v, i, n)];
    return [`scores[${i},${n}]`, w * ((n === j ? 1 : 0) - other)];
  }),
};

const softmaxBack = {
  name: "dscores",
  title: "dscores = weights (dweights - sum(weights dweights))",
  reads: ["weights", "dweights"],
  size: (v) => [v.weights.length, v.weights[0].length],
  dot: (v, i) => v.weights[i].reduce((sum, w, n) => sum + (w ? w * v.dweights[i][n] : 0), 0),
  value: (v, i, j) =>
    v.weights[i][j] ? v.weights[i][j] * (v.dweights[i][j] - softmaxBack.dot(v, i)) : 0,
  formula: (v, i, j) =>
    `w (dw - sum) = ${shown(v.weights[i][j])} (${shown(v.dweights[i][j])} - ${shown(softmaxBack.dot(v, i))})`,
  slopes: (v, i, j) => v.weights[i].map((w, n) => [
    `dweights[${i},${n}]`, v.weights[i][j] * ((n === j ? 1 : 0) - w),
  ]),
};

const part = (a, b, more = {}) => ({ a, b, ...more });
const LINES = [
  product("q", "q = x Wq^T", [part("x", "Wq", { bt: true })]),
  product("k", "k = x Wk^T", [part("x", "Wk", { bt: true })]),
  product("v", "v = x Wv^T", [part("x", "Wv", { bt: true })]),
  product("scores", "scores = scale q k^T, where the mask lets see",
    [part("q", "k", { bt: true, scaled: true })], (v, i, j) => v.seen[i][j]),
  softmax,
  product("out", "out = weights v;  loss = sum(dout out)", [part("weights", "v")]),
  product("dweights", "dweights = dout v^T", [part("dout", "v", { bt: true })]),
  product("dv", "dv = weights^T dout", [part("weights", "dout", { at: true })]),
  softmaxBack,
  product("dq", "dq = scale dscores k", [part("dscores", "k", { scaled: true })]),
  product("dk", "dk = scale dscores^T q", [part("dscores", "q", { at: true, scaled: true })]),
  product("dWq", "dWq = dq^T x", [part("dq", "x", { at: true })]),
  product("dWk", "dWk = dk^T x", [part("dk", "x", { at: true })]),
  product("dWv", "dWv = dv^T x", [part("dv", "x", { at: true })]),
  product("dx", "dx = dq Wq + dk Wk + dv Wv",
    [part("dq", "Wq"), part("dk", "Wk"), part("dv", "Wv")]),
];
const GIVEN = ["x", "Wq", "Wk", "Wv", "dout"];
// Forward values down the page, and each one's gradient beside it, to be read up.
const ORDER = ["x", "Wq", "Wk", "Wv", "q", "k", "v", "scores", "weights", "out"];

// Work out all lines from what is given.
function compute(given) {
  const v = { ...given };
  for (const line of LINES) {
    const [rows, columns] = line.size(v);
    v[line.name] = range(rows).map((i) => range(columns).map((j) => line.value(v, i, j)));
  }
  v.loss = v.out.flatMap((row, i) => row.map((o, j) => o * v.dout[i][j])).reduce((a, b) => a + b, 0);
  return v;
}
