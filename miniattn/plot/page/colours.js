// ------------------------------------------------------------------------------ colours

// Lightness runs one way in both maps, so they serve any colour vision, and print in grey.
const RAMPS = {
  light: [[250, 249, 246], [203, 221, 236], [116, 166, 208], [40, 98, 165], [12, 30, 80]],
  dark: [[25, 28, 34], [27, 58, 102], [43, 116, 166], [116, 187, 203], [251, 245, 216]],
};
// Of numbers with a sign: below 0, 0, above. Lightness runs away from 0 on both sides.
const SIGNED = {
  light: [[10, 50, 105], [55, 125, 190], [250, 249, 246], [222, 110, 50], [120, 40, 0]],
  dark: [[190, 225, 255], [60, 130, 195], [25, 28, 34], [205, 105, 40], [255, 220, 175]],
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
  theme = { name, ramp: ramp(RAMPS[name]), signed: ramp(SIGNED[name]), font: style.fontFamily };
  for (const v of ["paper", "ink", "quiet", "rule", "query", "key", "found", "broken", "up", "down"]) theme[v] = colour(v);
  probe.remove();
  theme.hatch = hatch(theme.quiet);
  const [r, g, b] = theme.broken.match(/\d+/g).map(Number);
  theme.brokenPixel = packed(r, g, b);
}

function ramp(anchors) {
  const colours = new Uint32Array(256);
  for (let c = 0; c < 256; c++) {
    const at = (c / 255) * (anchors.length - 1);
    const k = Math.min(Math.floor(at), anchors.length - 2);
    const [r, g, b] = anchors[k].map((x, n) => Math.round(x + (at - k) * (anchors[k + 1][n] - x)));
    colours[c] = packed(r, g, b);
  }
  return colours;
}

const packed = (r, g, b) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0; // RGBA, little-endian

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

// Where on the colour scale a number lies: 0 to 1, with a sign -1 to 1.
function shade(weight, i) {
  const top = state.scale === "row" ? head.tops[i] : head.peak;
  if (!(top > 0)) return 0;
  if (state.scale !== "log") return weight / top;
  return Math.sign(weight) * Math.max(0, 1 + Math.log10(Math.abs(weight) / top) / 4);
}

// The colour of a shade.
const pixel = (t) => (head.signed ? theme.signed[Math.round(127.5 * (1 + t))] : theme.ramp[Math.round(255 * t)]);

// The picture of the map, at most so many pixels high and wide. Where a pixel holds several cells
// it shows the greatest: a single heavy column of a long map must not be lost or thinned.
const BROKEN = 2;

function image(high, wide) {
  const { T, S } = head;
  const [rows, columns] = [Math.min(T, high), Math.min(S, wide)];
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const pen = canvas.getContext("2d");
  const data = pen.createImageData(columns, rows);
  const tops = new Float32Array(rows * columns).fill(NaN);
  for (let i = 0; i < T; i++) {
    const row = Math.floor((i * rows) / T) * columns;
    for (let j = 0; j < S; j++) {
      if (!head.seen(i, j)) continue; // stays transparent: the hatch below shows
      const t = broken(i, j) ? BROKEN : kept(i, j) ? shade(head.weight(i, j), i) : 0;
      const n = row + Math.floor((j * columns) / S);
      if (!(Math.abs(t) <= Math.abs(tops[n]))) tops[n] = t;
    }
  }
  const pixels = new Uint32Array(data.data.buffer);
  tops.forEach((t, n) => {
    if (!Number.isNaN(t)) pixels[n] = t === BROKEN ? theme.brokenPixel : pixel(t);
  });
  pen.putImageData(data, 0, 0);
  return canvas;
}
