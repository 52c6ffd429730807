// --- lines

const TOP = 34;

function placeLines(W) {
  const step = Math.round(24 * state.zoom);
  const size = Math.max(7, Math.min(15, step * 0.6));
  pen.font = `${size}px ${theme.font}`;
  const { query, key } = head.labels;
  const room = Math.min(200, W * 0.3);
  const [left, right] = [widest(pen, query, room), widest(pen, key, room)];
  const numbers = 44; // the weights beside the keys or queries
  const gap = Math.max(90, Math.min(420, W - left - right - 2 * numbers - 48));
  const start = Math.max(24, (W - left - gap - right) / 2);
  box = { step, size, room, x1: start + left, x2: start + left + gap, left, right };
  const long = TOP + step * Math.max(head.T, head.S) + 16;
  resizeExtent(...(state.across ? [long, 0] : [0, long]));
}

const gone = () => (state.across ? scroll.left : scroll.top);
const lineY = (i) => TOP + (i + 0.5) * box.step - gone();

function drawLines(W, H) {
  const { x1, x2, step } = box;
  const first = Math.max(0, Math.floor((gone() - TOP) / step));
  const last = Math.ceil((gone() + H - TOP) / step);
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
  const path = () => pen.newPath?.() ?? new Path2D();
  const [paths, below] = [1, -1].map(() => Array.from({ length: SHADES }, path));
  const { x1, x2 } = box;
  const [a, b] = [x1 + 7, x2 - 7];
  const grade = (t) => Math.min(SHADES - 1, Math.floor(t * SHADES));
  const curve = (path, i, j) => {
    const [y1, y2] = [lineY(i), lineY(j)];
    path.moveTo(a, y1);
    path.bezierCurveTo((a + b) / 2, y1, (a + b) / 2, y2, b, y2);
  };
  const inside = (n) => n >= first && n < last;
  const bad = path();
  const top = reach();
  for (const i of state.token !== null && state.side === "query" ? [state.token] : span(head.T)) {
    for (const j of state.token !== null && state.side === "key" ? [state.token] : span(head.S)) {
      if (!inside(i) && !inside(j)) continue;
      const weight = head.weight(i, j);
      if (kept(i, j)) curve((weight < 0 ? below : paths)[grade(Math.abs(weight) / top)], i, j);
      if (broken(i, j)) curve(bad, i, j);
    }
  }
  const usual = state.token === null ? theme.query : theme[state.side];
  strokeShades(paths, head.signed ? theme.up : usual);
  pen.setLineDash([7, 4]); // below 0: told apart in grey, too
  strokeShades(below, theme.down);
  pen.strokeStyle = theme.broken;
  pen.lineWidth = 1.2;
  pen.setLineDash([2, 4]);
  pen.stroke(bad);
  pen.setLineDash([]);
}

function strokeShades(paths, colour) {
  pen.strokeStyle = colour;
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
  return span(count).reduce((a, n) => Math.max(a, linkSize(n)), 0) || 1;
}

const linkCell = (n) => (state.side === "query" ? [state.token, n] : [n, state.token]);
const linkWeight = (n) => head.weight(...linkCell(n));
const linkSize = (n) => Math.abs(linkWeight(n));
const linkColour = (weight) => theme[!head.signed ? state.side : weight < 0 ? "down" : "up"];

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
    const bad = other && broken(...linkCell(n));
    if (matches(tokens[n])) bar(x, y, away * wide, theme.found, 1);
    if (shown) bar(x, y, away * wide, linkColour(shown), 0.06 + 0.34 * (Math.abs(shown) / top));
    if (own) bar(x, y, away * wide, theme[side], 1);
    if (hidden) bar(x, y, away * wide, theme.hatch, 0.8);
    if (bad) bar(x, y, away * wide, theme.broken, 0.3);
    pen.fillStyle = own ? theme.paper : other && !shown ? theme.quiet : theme.ink;
    pen.globalAlpha = other && !shown ? 0.75 : 1;
    pen.font = `${own ? "600 " : ""}${size}px ${theme.font}`;
    pen.fillText(fitted(pen, head.labels[side][n], room), x, y);
    pen.globalAlpha = 1;
    if (shown || bad) {
      pen.font = `${size * 0.8}px ${theme.font}`;
      pen.fillStyle = bad ? theme.broken : theme.quiet;
      pen.fillText(bad ? "NaN" : number(shown), x + away * (wide + 6), y);
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

function disc(x, y, colour, radius = 3) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

