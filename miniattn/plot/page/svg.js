// --------------------------------------------------------------------------------- svg

// A pen with as much of a canvas's as the drawing uses, which writes SVG.

const XML = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => XML[c]);
const short = (x) => String(Number(x.toFixed(2)));

class Trail {
  constructor() {
    this.d = "";
  }
  add(letter, ...numbers) {
    this.d += letter + numbers.map(short).join(" ");
  }
  moveTo(x, y) {
    this.add("M", x, y);
  }
  lineTo(x, y) {
    this.add("L", x, y);
  }
  bezierCurveTo(...numbers) {
    this.add("C", ...numbers);
  }
  rect(x, y, w, h) {
    this.d += `M${short(x)} ${short(y)}h${short(w)}v${short(h)}h${short(-w)}Z`;
  }
  arc(x, y, r) { // of the drawing, all are whole circles
    const half = (to) => `A${short(r)} ${short(r)} 0 1 1 ${short(to)} ${short(y)}`;
    this.d += `M${short(x - r)} ${short(y)}${half(x + r)}${half(x - r)}`;
  }
}

class SvgPen {
  constructor(width, height) {
    Object.assign(this, { width, height, elements: [], definitions: [], saved: [], clips: 0 });
    Object.assign(this, { matrix: new DOMMatrix(), inside: null, dash: [], globalAlpha: 1, lineWidth: 1 });
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineCap: "butt", textAlign: "left", font: "12px sans-serif" });
    this.beginPath();
  }

  save() {
    const { matrix, inside, fillStyle, strokeStyle, lineWidth, lineCap, globalAlpha, textAlign, font, dash } = this;
    this.saved.push({ matrix, inside, fillStyle, strokeStyle, lineWidth, lineCap, globalAlpha, textAlign, font, dash });
  }
  restore() {
    Object.assign(this, this.saved.pop());
  }
  translate(x, y) {
    this.matrix = this.matrix.translate(x, y);
  }
  rotate(angle) {
    this.matrix = this.matrix.rotate((angle * 180) / Math.PI);
  }
  setLineDash(dash) {
    this.dash = dash;
  }
  measureText(text) {
    screen2d.font = this.font;
    return screen2d.measureText(text);
  }

  newPath() {
    return new Trail();
  }
  beginPath() {
    this.trail = new Trail();
  }
  moveTo(x, y) {
    this.trail.moveTo(x, y);
  }
  lineTo(x, y) {
    this.trail.lineTo(x, y);
  }
  rect(x, y, w, h) {
    this.trail.rect(x, y, w, h);
  }
  roundRect(x, y, w, h) {
    this.trail.rect(x, y, w, h);
  }
  arc(x, y, r) {
    this.trail.arc(x, y, r);
  }
  clip() {
    const id = `clip${++this.clips}`;
    const within = this.inside ? ` clip-path="url(#${this.inside})"` : "";
    this.definitions.push(`<clipPath id="${id}"${within}><path d="${this.trail.d}"${this.turned()}/></clipPath>`);
    this.inside = id;
  }

  fill() {
    this.path(this.trail, this.filled());
  }
  stroke(path = this.trail) {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    const cap = this.lineCap === "butt" ? "" : ` stroke-linecap="${this.lineCap}"`;
    this.path(path, `fill="none" stroke="${this.strokeStyle}" stroke-width="${short(this.lineWidth)}"${dash}${cap}`);
  }
  path(path, look) {
    if (path.d) this.add(`<path d="${path.d}" ${look}${this.turned()}${this.faint()}/>`);
  }
  fillRect(x, y, w, h) {
    const place = `x="${short(x)}" y="${short(y)}" width="${short(w)}" height="${short(h)}"`;
    this.add(`<rect ${place} ${this.filled()}${this.turned()}${this.faint()}/>`);
  }
  strokeRect(x, y, w, h) {
    const frame = new Trail();
    frame.rect(x, y, w, h);
    this.stroke(frame);
  }
  fillText(text, x, y) {
    const anchor = { left: "start", right: "end", center: "middle" }[this.textAlign];
    const [, weight, size, family] = this.font.match(/^(\d+ )?([\d.]+)px (.*)$/);
    const face = `font-family="${escaped(family)}" font-size="${short(Number(size))}"${weight ? ` font-weight="${weight.trim()}"` : ""}`;
    this.add(
      `<text x="${short(x)}" y="${short(y)}" dominant-baseline="central" text-anchor="${anchor}" ${face} ` +
      `xml:space="preserve" ${this.filled()}${this.turned()}${this.faint()}>${escaped(text)}</text>`);
  }
  drawImage(image, x, y, w, h) {
    const place = `x="${short(x)}" y="${short(y)}" width="${short(w)}" height="${short(h)}"`;
    this.add(
      `<image ${place} preserveAspectRatio="none" style="image-rendering: pixelated"` +
      `${this.turned()} href="${image.toDataURL()}"/>`);
  }

  filled() {
    return `fill="${this.fillStyle === theme.hatch ? "url(#hatch)" : this.fillStyle}"`;
  }
  turned() {
    const { a, b, c, d, e, f, isIdentity } = this.matrix;
    return isIdentity ? "" : ` transform="matrix(${[a, b, c, d, e, f].map(short).join(" ")})"`;
  }
  faint() {
    return this.globalAlpha === 1 ? "" : ` opacity="${short(this.globalAlpha)}"`;
  }
  add(element) {
    this.elements.push(this.inside ? `<g clip-path="url(#${this.inside})">${element}</g>` : element);
  }

  text(title) {
    const hatch =
      `<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse">` +
      `<path d="M-6 6L0 0M0 6L6 0M6 6L12 0" stroke="${theme.quiet}" opacity="0.5"/></pattern>`;
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${this.width}" height="${this.height}" ` +
      `viewBox="0 0 ${this.width} ${this.height}" role="img"><title>${escaped(title)}</title>` +
      `<defs>${hatch}${this.definitions.join("")}</defs>${this.elements.join("\n")}</svg>\n`);
  }
}

