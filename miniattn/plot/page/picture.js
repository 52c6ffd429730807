// ----------------------------------------------------------------------------- pictures

// What is seen, with its title and legend, as a file: all of it, also what is scrolled out of sight.

const [HEAD, FOOT, EDGE] = [36, 26, 12];
const LARGEST_SIDE = 8192; // pixels of a PNG: what browsers can draw

const caption = () => {
  const layer = page.layers[state.layer];
  return `${page.title}: ${layer.name}, ${subjectOf(layer)}`;
};

// Lines of the legend, of entries that are as wide as they say and draw themselves from x, y on.
function entries() {
  const told = (text, mark = 0, draw = () => {}) => ({
    wide: mark + width(pen, text) + 18,
    draw: (x, y) => {
      draw(x, y);
      pen.fillStyle = theme.quiet;
      pen.fillText(text, x + mark, y);
    },
  });
  const swatch = (colour) => (x, y) => {
    pen.fillStyle = colour;
    pen.fillRect(x, y - 5, 18, 10);
  };
  const stroke = (colour, dash) => (x, y) => {
    [pen.strokeStyle, pen.lineWidth] = [colour, 2];
    pen.setLineDash(dash);
    line(pen, x, y, x + 18, y);
    pen.setLineDash([]);
  };
  const { masked, broken, zeros, sums } = notes();
  return [
    ...(state.view === "map" ? [scaleEntry()] : head.signed ? [
      told("above 0", 24, stroke(theme.up, [])), told("below 0", 24, stroke(theme.down, [5, 3])),
    ] : []),
    ...(masked ? [told(masked, 24, swatch(theme.hatch))] : []),
    ...(broken ? [told(broken, 24, swatch(theme.broken))] : []),
    ...(zeros ? [told(zeros, 14, (x, y) => disc(x + 6, y, theme.quiet, 1.2))] : []),
    ...[sums, MEANING[state.value]].filter(Boolean).map((text) => told(text)),
  ];
}

// The scale of the colours, between the numbers at its ends.
function scaleEntry() {
  const colours = Object.assign(document.createElement("canvas"), { width: 120, height: 8 });
  colours.getContext("2d").putImageData(strip(), 0, 0);
  const [least, most] = ends();
  const [left, right] = [least, most].map((text) => width(pen, text));
  return {
    wide: left + 132 + right + 18,
    draw: (x, y) => {
      pen.fillStyle = theme.quiet;
      pen.fillText(least, x, y);
      pen.drawImage(colours, x + left + 6, y - 4, 120, 8);
      pen.fillText(most, x + left + 132, y);
    },
  };
}

// The legend as lines of entries that fit into a width.
function folded(all, room) {
  const lines = [[]];
  let used = 0;
  for (const entry of all) {
    if (used + entry.wide > room && used) [used] = [0, lines.push([])];
    lines.at(-1).push(entry);
    used += entry.wide;
  }
  return lines[0].length ? lines : [];
}

const SMALL = () => `12px ${theme.font}`;

// Draw the whole picture with another pen, which `make(width, height)` gives.
function drawnWith(make) {
  const [W, H] = box.extent;
  const before = { pen, scroll };
  try {
    pen.font = SMALL();
    const lines = folded(entries(), W - 2 * EDGE);
    const height = HEAD + H + FOOT * lines.length + (lines.length ? EDGE / 2 : 0);
    pen = make(W, height);
    scroll = { left: 0, top: 0 };
    pen.textBaseline = "middle";
    pen.fillStyle = theme.paper;
    pen.fillRect(0, 0, W, height);
    pen.font = `600 14px ${theme.font}`;
    pen.textAlign = "left";
    pen.fillStyle = theme.ink;
    pen.fillText(fitted(pen, caption(), W - 2 * EDGE), EDGE, HEAD / 2);
    pen.save();
    pen.translate(0, HEAD);
    paint(W, H);
    pen.restore();
    pen.font = SMALL();
    pen.textAlign = "left";
    lines.forEach((line, n) => {
      let x = EDGE;
      for (const entry of line) {
        entry.draw(x, HEAD + H + (n + 0.5) * FOOT);
        x += entry.wide;
      }
    });
    return pen;
  } finally {
    ({ pen, scroll } = before);
  }
}

const asSvg = () => new Blob([drawnWith((w, h) => new SvgPen(w, h)).text(caption())], { type: "image/svg+xml" });

function asPng() {
  const { canvas } = drawnWith((w, h) => {
    const ratio = Math.min(2, LARGEST_SIDE / Math.max(w, h));
    const [width, height] = [w, h].map((side) => Math.round(side * ratio));
    const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    pen.scale(ratio, ratio);
    return pen;
  });
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

async function save(kind) {
  if (!head) return;
  const made = kind === "svg" ? asSvg() : await asPng();
  const name = caption().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80);
  const link = element("a", "", { href: URL.createObjectURL(made), download: `${name || "attention"}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

