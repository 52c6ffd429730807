// ------------------------------------------------------------------------------- beside

const LISTED = 40;

function element(tag, text = "", more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

function list() {
  const aside = $("links");
  aside.className = `of-${state.side}`;
  const items = [];
  if (state.token === null) {
    $("subject").replaceChildren("No token chosen");
    $("summary").textContent = "Point at a token to see its links; click to pin it.";
  } else {
    const query = state.side === "query";
    const [own, others] = query ? ["query", "key"] : ["key", "query"];
    const labels = head.labels[others];
    const all = span(labels.length).filter((n) => kept(...linkCell(n)));
    all.sort((a, b) => linkSize(b) - linkSize(a) || a - b);
    const total = all.reduce((sum, n) => sum + linkWeight(n), 0);
    const name = head.labels[own][state.token];
    $("subject").replaceChildren(isolated(name), " ", element("small", `${own} ${state.token}${state.pinned ? ", pinned" : ""}`));
    const kinds = `${all.length} of ${labels.length} ${query ? "keys" : "queries"}`;
    const bad = span(labels.length).filter((n) => broken(...linkCell(n)));
    const sum = query && head.totals ? `; the row sums to ${number(head.totals[state.token])}` : "";
    const all_of = `${kinds}, together ${number(total)}`;
    $("summary").textContent =
      (head.signed ? all_of : query ? `reads ${all_of}` : `read by ${kinds}`) + sum +
      (bad.length ? `; ${bad.length} NaN or infinite` : "");
    const top = reach();
    for (const n of all.slice(0, LISTED)) {
      const item = element("li");
      const what = element("span");
      what.append(isolated(labels[n]), " ", element("small", String(n)));
      const bar = element("i");
      bar.style.width = `${(100 * linkSize(n)) / top}%`;
      bar.style.background = linkColour(linkWeight(n));
      item.append(what, element("span", number(linkWeight(n))), bar);
      items.push(item);
    }
    if (all.length > LISTED) items.push(element("li", `and ${all.length - LISTED} weaker`));
  }
  $("list").replaceChildren(...items);
}

// The line below the picture, in parts.
function status() {
  if (state.view === "map" && state.cell) {
    const [i, j] = state.cell;
    const [query, key] = [head.labels.query[i], head.labels.key[j]].map(isolated);
    return [query, ` (${i}) \u2192 `, key, ` (${j}): ${value(i, j)}`];
  }
  if (state.token === null) return [];
  return [...$("subject").cloneNode(true).childNodes, `: ${$("summary").textContent}`];
}

function value(i, j) {
  if (!head.seen(i, j)) return "masked";
  if (head.bad(i, j)) return "NaN or infinite";
  const weight = head.weight(i, j);
  if (weight === 0) return head.zero(i, j) ? "exactly 0" : "nearly 0"; // smaller than a step of the code
  return number(weight);
}

const MEANING = {
  weights: "",
  gradient: "d loss / d weight: more of it raises or lowers the loss",
  "weights*gradient": "weight \u00d7 d loss / d weight: the link adds to or takes from the loss, to first order",
};

// What the colours at the ends of the scale mean.
function ends() {
  if (state.scale === "row") return head.signed ? ["\u2212 greatest of row", "greatest of row"] : ["0", "greatest of row"];
  const top = number(head.peak);
  return [head.signed ? number(-head.peak) : state.scale === "log" ? number(head.peak / 1e4) : "0", top];
}

// Which of the marks below the picture there are.
const notes = () => ({
  masked: head.masked ? "masked" : "",
  broken: head.broken ? "NaN or infinite" : "",
  zeros: head.zeros && state.view === "map" ? "exactly 0" : "",
  sums: head.totals ? sumNote() : "",
});

function sumNote() {
  const totals = Array.from(head.totals).filter((total) => total !== 0 && !Number.isNaN(total));
  const [low, high] = [totals.reduce((a, b) => Math.min(a, b), Infinity), totals.reduce((a, b) => Math.max(a, b), 0)];
  return `rows do not sum to 1, but to ${number(low)}${high > low ? ` to ${number(high)}` : ""}`;
}

function legend() {
  $("ramp").getContext("2d").putImageData(strip(), 0, 0);
  [$("least").textContent, $("most").textContent] = ends();
  $("ramp").parentElement.hidden = state.view === "lines";
  $("signs").hidden = !(head.signed && state.view === "lines");
  const swatch = $("hatch").getContext("2d");
  swatch.clearRect(0, 0, 18, 10);
  swatch.fillStyle = theme.hatch;
  swatch.fillRect(0, 0, 18, 10);
  for (const [id, text] of Object.entries(notes())) $(id).hidden = !text;
  $("sums").textContent = notes().sums;
  $("meaning").textContent = MEANING[state.value];
  $("meaning").hidden = !MEANING[state.value];
}

// The colours from one end of the scale to the other, 120 x 8.
function strip() {
  const data = new ImageData(120, 8);
  const colours = head.signed ? theme.signed : theme.ramp;
  new Uint32Array(data.data.buffer).forEach((_, n, pixels) => (pixels[n] = colours[Math.round(((n % 120) / 119) * 255)]));
  return data;
}

const subjectOf = (layer) => (state.mean ? `mean of ${layer.heads} heads` : `head ${state.head}`);

function controls() {
  const layer = page.layers[state.layer];
  const press = (id, on) => $(id).setAttribute("aria-pressed", String(on));
  press("lines", state.view === "lines");
  press("map", state.view === "map");
  press("of-query", state.side === "query");
  press("of-key", state.side === "key");
  $("mass").value = state.mass[state.view];
  $("share").textContent = `${state.mass[state.view]} %`;
  $("scale").value = state.scale;
  $("scale").parentElement.hidden = state.view === "lines";
  press("across", state.across);
  press("mean", state.mean);
  press("words", state.words);
  $("across").hidden = state.view !== "lines";
  $("mean").hidden = layer.heads === 1;
  $("words").hidden = !hasWords(layer);
  $("value").parentElement.hidden = !layer.values.gradient;
  $("value").value = state.value;
  $("where").replaceChildren(isolated(layer.name), `, ${subjectOf(layer)}`);
  const unit = state.words ? "words" : "tokens";
  const sizes = head.T === head.S ? `${head.T} ${unit}` : `${head.T} queries, ${head.S} keys`;
  const what = { weights: "Attention", gradient: "Gradient of attention", "weights*gradient": "Attention times gradient" };
  const name = `${what[state.value]} of ${layer.name}, ${subjectOf(layer)}`;
  stage.setAttribute("aria-label", `${name}: ${sizes}, as ${state.view}`);
  for (const button of document.querySelectorAll("#chooser button")) {
    const on = Number(button.dataset.layer) === state.layer && (state.mean || Number(button.dataset.head) === state.head);
    button.setAttribute("aria-pressed", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  const hits = found().length;
  $("found").textContent = state.search ? `${hits} found` : "";
}

let frame = 0;

// Everything on the page follows from the state; at most once a frame.
function update() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!head) return;
    least = cuts(head, state.mass[state.view]);
    controls();
    legend();
    list();
    $("status").replaceChildren(...status());
    draw();
  });
}

