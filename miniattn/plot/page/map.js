// --- map

let drawn = { canvas: null, of: null };

function picture(high, wide) {
  const of = [head.name, state.scale, state.mass.map, theme.name, high, wide].join();
  if (drawn.of !== of) drawn = { of, canvas: image(high, wide) };
  return drawn.canvas;
}

const LARGEST = 38; // pixels a cell, before zooming

function placeMap(W, H) {
  const { T, S, labels } = head;
  pen.font = `600 12px ${theme.font}`; // as the label of what is pointed at
  const rows = widest(pen, labels.query, Math.min(150, W * 0.25));
  const columns = widest(pen, labels.key, Math.min(120, H * 0.25));
  const [x, y] = [rows + 40, columns + 40];
  const beside = head.totals ? 44 : 24; // what rows sum to
  const fit = Math.min((W - x - beside) / S, (H - y - 16) / T, LARGEST);
  const wanted = Math.max(fit, 1.5) * state.zoom;
  const cell = wanted > 3 ? Math.floor(wanted) : wanted; // whole pixels: no uneven cells
  const spare = Math.max(0, (W - x - S * cell - beside) / 2);
  box = { x: x + spare, y, cell, rows, columns };
  resizeExtent(box.x + S * cell + beside, y + T * cell + 16);
}

function drawMap(W, H) {
  const { x, y, cell } = box;
  const { T, S } = head;
  const [left, top] = [x - scroll.left, y - scroll.top];
  pen.save();
  pen.beginPath();
  pen.rect(x, y, W - x, H - y);
  pen.clip();
  if (head.masked) {
    pen.fillStyle = theme.hatch;
    pen.fillRect(left, top, S * cell, T * cell);
  }
  pen.imageSmoothingEnabled = false;
  const pixels = cell * (devicePixelRatio || 1); // of the screen, a cell
  const [high, wide] = [T, S].map((n) => (pixels < 1 ? Math.floor(n * pixels) : n));
  pen.drawImage(picture(high, wide), left, top, S * cell, T * cell);
  if (cell >= 12) separate(left, top, W, H);
  if (cell >= 12) markCells(left, top, W, H);
  pen.strokeStyle = theme.rule;
  pen.lineWidth = 1;
  pen.strokeRect(left - 0.5, top - 0.5, S * cell + 1, T * cell + 1);
  mark(left, top);
  pen.restore();
  labelRows(top, H);
  labelColumns(left, W);
  drawTotals(left, top, W, H);
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

// Cells that colour does not tell: a minus where a number is below 0, a dot where it is exactly 0.
function markCells(left, top, W, H) {
  const { cell } = box;
  const seen = (from, n, room) => from + (n + 1) * cell > 0 && from + n * cell < room;
  const [rows, columns] = [span(head.T).filter((i) => seen(top, i, H)), span(head.S).filter((j) => seen(left, j, W))];
  for (const i of rows) {
    for (const j of columns) {
      const [x, y] = [left + (j + 0.5) * cell, top + (i + 0.5) * cell];
      const t = head.signed && kept(i, j) ? shade(head.weight(i, j), i) : 0;
      if (t < -0.02) {
        pen.fillStyle = t < -0.6 ? theme.paper : theme.ink;
        pen.fillRect(x - 0.15 * cell, y - 0.75, 0.3 * cell, 1.5);
      } else if (head.zero(i, j)) {
        disc(x, y, theme.quiet, 1.2);
      }
    }
  }
}

// What rows sum to, at their ends, where that is not 1.
function drawTotals(left, top, W, H) {
  if (!head.totals || box.cell < 12) return;
  pen.textAlign = "left";
  pen.font = `11px ${theme.font}`;
  pen.fillStyle = theme.quiet;
  const x = left + head.S * box.cell + 7;
  span(head.T).forEach((i) => {
    const y = top + (i + 0.5) * box.cell;
    if (y > box.y && y < H) pen.fillText(number(head.totals[i]), x, y);
  });
  if (top >= box.y - box.cell) axis("sum", theme.quiet, x + 13, box.y - 10, 0);
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
    label("query", n, special, x - 8, at, rows);
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
    label("key", n, special, 0, 0, columns);
    pen.restore();
  }
  axis("key", theme.key, x + Math.min(W - x, head.S * cell) / 2, y - columns - 22, 0);
}

function label(side, n, special, x, y, room) {
  pen.font = `${special ? "600 " : ""}12px ${theme.font}`;
  const text = fitted(pen, head.labels[side][n], room + 4);
  if (matches(head.tokens[side][n])) {
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

