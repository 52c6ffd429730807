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
    all.sort((a, b) => linkWeight(b) - linkWeight(a) || a - b);
    const total = all.reduce((sum, n) => sum + linkWeight(n), 0);
    const name = head.labels[own][state.token];
    $("subject").replaceChildren(isolated(name), " ", element("small", `${own} ${state.token}${state.pinned ? ", pinned" : ""}`));
    const kinds = `${all.length} of ${labels.length} ${query ? "keys" : "queries"}`;
    const bad = span(labels.length).filter((n) => broken(...linkCell(n)));
    $("summary").textContent =
      (query ? `reads ${kinds}, together ${number(total)}` : `read by ${kinds}`) +
      (bad.length ? `; ${bad.length} NaN or infinite` : "");
    const top = reach();
    for (const n of all.slice(0, LISTED)) {
      const item = element("li");
      const what = element("span");
      what.append(isolated(labels[n]), " ", element("small", String(n)));
      const bar = element("i");
      bar.style.width = `${(100 * linkWeight(n)) / top}%`;
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
  return head.bad(i, j) ? "NaN or infinite" : number(head.weight(i, j));
}

function legend() {
  const strip = $("ramp").getContext("2d");
  const data = strip.createImageData(120, 8);
  const pixels = new Uint32Array(data.data.buffer);
  pixels.forEach((_, n) => (pixels[n] = theme.ramp[Math.round(((n % 120) / 119) * 255)]));
  strip.putImageData(data, 0, 0);
  const end = { linear: number(head.peak), row: "greatest of row", log: number(head.peak) };
  $("most").textContent = end[state.scale];
  $("ramp").parentElement.hidden = state.view === "lines";
  $("ramp").previousElementSibling.textContent = state.scale === "log" ? number(head.peak / 1e4) : "0";
  const swatch = $("hatch").getContext("2d");
  swatch.clearRect(0, 0, 18, 10);
  swatch.fillStyle = theme.hatch;
  swatch.fillRect(0, 0, 18, 10);
  $("masked").hidden = !head.masked;
  $("broken").hidden = !head.broken;
  $("sums").hidden = head.sums;
}

function controls() {
  const press = (id, on) => $(id).setAttribute("aria-pressed", String(on));
  press("lines", state.view === "lines");
  press("map", state.view === "map");
  press("of-query", state.side === "query");
  press("of-key", state.side === "key");
  $("mass").value = state.mass[state.view];
  $("share").textContent = `${state.mass[state.view]} %`;
  $("scale").value = state.scale;
  $("scale").parentElement.hidden = state.view === "lines";
  const layer = page.layers[state.layer];
  $("where").replaceChildren(isolated(layer.name), `, head ${state.head}`);
  const sizes = head.T === head.S ? `${head.T} tokens` : `${head.T} queries, ${head.S} keys`;
  stage.setAttribute("aria-label", `Attention of ${layer.name}, head ${state.head}: ${sizes}, as ${state.view}`);
  for (const button of document.querySelectorAll("#chooser button")) {
    const on = Number(button.dataset.layer) === state.layer && Number(button.dataset.head) === state.head;
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

