"use strict";
// The arithmetic of the page: every line of the forward and of the backward, with the formula of each
// number and the slope of that number by each of those that it is made of. A line is data: its kind,
// its name, its title, and the names that it reads.

const data = JSON.parse(document.getElementById("data").textContent);
const shown = (x) =>
  x === -Infinity ? "-inf" : Math.abs(x) < 5e-4 && x !== 0 ? x.toExponential(1) : x.toFixed(3);
const range = (n) => [...Array(n).keys()];
const total = (terms) => terms.reduce((a, b) => a + b, 0);
const sizeOf = (name) => (v) => [v[name].length, v[name][0].length];

// out = factor * (a or its transpose) @ (b or its transpose), summed over several such products.
function product({ parts, seen, bias }) {
  const hidden = (v, i, j) => Boolean(seen) && !v[seen][i][j];
  const pairs = (v, part, i, j) => {
    const [a, b] = [v[part.a], v[part.b]];
    return range(part.at ? a.length : a[0].length).map((n) => ({
      a: part.at ? a[n][i] : a[i][n],
      b: part.bt ? b[j][n] : b[n][j],
      atA: `${part.a}[${part.at ? [n, i] : [i, n]}]`,
      atB: `${part.b}[${part.bt ? [j, n] : [n, j]}]`,
    }));
  };
  const scale = (part) => part.scale ?? 1;
  return {
    reads: [...new Set([...parts.flatMap((part) => [part.a, part.b]), ...(bias ? [bias] : [])])],
    size: (v) => {
      const { a, at, b, bt } = parts[0];
      return [at ? v[a][0].length : v[a].length, bt ? v[b].length : v[b][0].length];
    },
    value: (v, i, j) => {
      if (hidden(v, i, j)) return -Infinity;
      const sums = parts.map((part) => scale(part) * total(pairs(v, part, i, j).map((p) => p.a * p.b)));
      return total(sums) + (bias ? v[bias][0][j] : 0);
    },
    formula: (v, i, j) => {
      if (hidden(v, i, j)) return "hidden by the mask";
      const terms = parts.map((part) => {
        const sum = pairs(v, part, i, j).map((p) => `${shown(p.a)}*${shown(p.b)}`).join(" + ");
        return part.scale === undefined ? sum : `${shown(part.scale)} (${sum})`;
      });
      return [...terms, ...(bias ? [shown(v[bias][0][j])] : [])].join("\n  + ");
    },
    slopes: (v, i, j) => {
      if (hidden(v, i, j)) return [];
      const by = parts.flatMap((part) => pairs(v, part, i, j).flatMap((p) => [
        [p.atA, scale(part) * p.b],
        [p.atB, scale(part) * p.a],
      ]));
      return bias ? [...by, [`${bias}[0,${j}]`, 1]] : by;
    },
  };
}

function softmax({ of }) {
  const value = (v, i, j) => {
    const row = v[of][i];
    const top = Math.max(...row);
    return top === -Infinity ? 0 : Math.exp(row[j] - top) / total(row.map((s) => Math.exp(s - top)));
  };
  return {
    reads: [of],
    size: sizeOf(of),
    value,
    formula: (v, i, j) =>
      `exp(${shown(v[of][i][j])}) / (${v[of][i].map((s) => `exp(${shown(s)})`).join(" + ")})`,
    slopes: (v, i, j) => v[of][i].map((_, n) => {
      const [w, other] = [value(v, i, j), value(v, i, n)];
      return [`${of}[${i},${n}]`, w * ((n === j ? 1 : 0) - other)];
    }),
  };
}

function softmaxBack({ weights, dweights }) {
  const dot = (v, i) => total(v[weights][i].map((w, n) => (w ? w * v[dweights][i][n] : 0)));
  return {
    reads: [weights, dweights],
    size: sizeOf(weights),
    value: (v, i, j) => (v[weights][i][j] ? v[weights][i][j] * (v[dweights][i][j] - dot(v, i)) : 0),
    formula: (v, i, j) =>
      `w (dw - sum) = ${shown(v[weights][i][j])} (${shown(v[dweights][i][j])} - ${shown(dot(v, i))})`,
    slopes: (v, i, j) => v[weights][i].map((w, n) => [
      `${dweights}[${i},${n}]`, v[weights][i][j] * ((n === j ? 1 : 0) - w),
    ]),
  };
}

function sum({ of }) {
  return {
    reads: of,
    size: sizeOf(of[0]),
    value: (v, i, j) => total(of.map((name) => v[name][i][j])),
    formula: (v, i, j) => of.map((name) => shown(v[name][i][j])).join(" + "),
    slopes: (v, i, j) => of.map((name) => [`${name}[${i},${j}]`, 1]),
  };
}

// The gradient of what was added to every row.
function columns({ of }) {
  return {
    reads: [of],
    size: (v) => [1, v[of][0].length],
    value: (v, i, j) => total(v[of].map((row) => row[j])),
    formula: (v, i, j) => v[of].map((row) => shown(row[j])).join(" + "),
    slopes: (v, i, j) => v[of].map((_, n) => [`${of}[${n},${j}]`, 1]),
  };
}

// --- normalisation: mean 0 only where it is centred (layer norm; RMS norm is not)

function statistics(row, { eps, centred }) {
  const mean = centred ? total(row) / row.length : 0;
  const inverse = 1 / Math.sqrt(total(row.map((x) => (x - mean) ** 2)) / row.length + eps);
  return { mean, inverse, normal: row.map((x) => (x - mean) * inverse) };
}

// How normal[j] changes with x[n], but for the factor 1/std.
const spread = ({ normal }, j, n, centred) =>
  (n === j ? 1 : 0) - (centred ? 1 / normal.length : 0) - (normal[j] * normal[n]) / normal.length;

function norm(line) {
  const { of, weight, bias, centred } = line;
  return {
    reads: [of, weight, ...(bias ? [bias] : [])],
    size: sizeOf(of),
    value: (v, i, j) =>
      statistics(v[of][i], line).normal[j] * v[weight][0][j] + (bias ? v[bias][0][j] : 0),
    formula: (v, i, j) => {
      const { mean, inverse } = statistics(v[of][i], line);
      const less = centred ? ` - ${shown(mean)}` : "";
      const shift = bias ? ` + ${shown(v[bias][0][j])}` : "";
      return `(${shown(v[of][i][j])}${less}) / ${shown(1 / inverse)} * ${shown(v[weight][0][j])}${shift}`;
    },
    slopes: (v, i, j) => {
      const found = statistics(v[of][i], line);
      const w = v[weight][0][j];
      return [
        ...v[of][i].map((_, n) => [`${of}[${i},${n}]`, w * found.inverse * spread(found, j, n, centred)]),
        [`${weight}[0,${j}]`, found.normal[j]],
        ...(bias ? [[`${bias}[0,${j}]`, 1]] : []),
      ];
    },
  };
}

// What comes back through a normalisation, and past it.
function normBack(line) {
  const { of, weight, dy, centred, plus } = line;
  const parts = (v, i) => {
    const found = statistics(v[of][i], line);
    const g = v[dy][i].map((d, n) => d * v[weight][0][n]);
    const mean = centred ? total(g) / g.length : 0;
    const along = total(g.map((x, n) => x * found.normal[n])) / g.length;
    return { ...found, g, mean, along };
  };
  return {
    reads: [of, weight, dy, ...(plus ? [plus] : [])],
    size: sizeOf(of),
    value: (v, i, j) => {
      const { inverse, normal, g, mean, along } = parts(v, i);
      return (plus ? v[plus][i][j] : 0) + inverse * (g[j] - mean - normal[j] * along);
    },
    formula: (v, i, j) => {
      const { inverse, normal, g, mean, along } = parts(v, i);
      const past = plus ? `${shown(v[plus][i][j])} + ` : "";
      const less = centred ? ` - ${shown(mean)}` : "";
      return `${past}(${shown(g[j])}${less} - ${shown(normal[j])}*${shown(along)}) / ${shown(1 / inverse)}`;
    },
    slopes: (v, i, j) => {
      const found = parts(v, i);
      const by = v[dy][i].map((_, n) =>
        [`${dy}[${i},${n}]`, found.inverse * v[weight][0][n] * spread(found, j, n, centred)]);
      return plus ? [[`${plus}[${i},${j}]`, 1], ...by] : by;
    },
  };
}

// The gradient of a normalisation's weight.
function normWeightBack(line) {
  const { of, dy } = line;
  const normal = (v, n, j) => statistics(v[of][n], line).normal[j];
  return {
    reads: [of, dy],
    size: (v) => [1, v[of][0].length],
    value: (v, i, j) => total(v[dy].map((row, n) => row[j] * normal(v, n, j))),
    formula: (v, i, j) => v[dy].map((row, n) => `${shown(row[j])}*${shown(normal(v, n, j))}`).join(" + "),
    slopes: (v, i, j) => v[dy].map((_, n) => [`${dy}[${n},${j}]`, normal(v, n, j)]),
  };
}

// --- activations, each with its slope

// 2/sqrt(pi) exp(-x^2) (x + 2 x^3/3 + 4 x^5/15 + ...): all terms have one sign.
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, sum] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const TANH = (x) => Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));
const CURVES = {
  relu: [(x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)],
  tanh: [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
  sigmoid: [sigmoid, (x) => sigmoid(x) * (1 - sigmoid(x))],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  gelu: [
    (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
    (x) => (1 + erf(x / Math.SQRT2)) / 2 + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  ],
  "gelu tanh": [
    (x) => (x / 2) * (1 + TANH(x)),
    (x) =>
      (1 + TANH(x)) / 2 +
      (x / 2) * (1 - TANH(x) ** 2) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x),
  ],
};

function activation({ of, curve }) {
  const [f, slope] = CURVES[curve];
  return {
    reads: [of],
    size: sizeOf(of),
    value: (v, i, j) => f(v[of][i][j]),
    formula: (v, i, j) => `${curve}(${shown(v[of][i][j])})`,
    slopes: (v, i, j) => [[`${of}[${i},${j}]`, slope(v[of][i][j])]],
  };
}

function activationBack({ of, dy, curve }) {
  const slope = CURVES[curve][1];
  return {
    reads: [of, dy],
    size: sizeOf(of),
    value: (v, i, j) => v[dy][i][j] * slope(v[of][i][j]),
    formula: (v, i, j) => `${shown(v[dy][i][j])} * ${curve}'(${shown(v[of][i][j])})`,
    slopes: (v, i, j) => [[`${dy}[${i},${j}]`, slope(v[of][i][j])]],
  };
}

const KINDS = {
  product, softmax, softmaxBack, sum, columns, norm, normBack, normWeightBack, activation, activationBack,
};
const LINES = data.lines.map((line) => ({ ...KINDS[line.kind](line), name: line.name, title: line.title }));
const GIVEN = Object.keys(data.given);

// Work out all lines from what is given.
function compute(given) {
  const v = { ...data.masks, ...given };
  for (const line of LINES) {
    const [rows, columns] = line.size(v);
    v[line.name] = range(rows).map((i) => range(columns).map((j) => line.value(v, i, j)));
  }
  v.loss = total(v[data.out].flatMap((row, i) => row.map((o, j) => o * v.dout[i][j])));
  return v;
}
