// What is seen, and what is done by mouse and keys.

const byId = (id) => document.getElementById(id);
const fresh = () => JSON.parse(JSON.stringify(data.given));
let given = fresh();
let values = compute(given);
let step = LINES.length; // lines that are done
let chosen = { name: data.first, i: 0, j: 0 };
const cells = {};

function colour(x, most) {
  if (!Number.isFinite(x) || !most) return "";
  const share = Math.round(70 * Math.min(1, Math.abs(x) / most));
  return `color-mix(in oklab, var(--${x < 0 ? "down" : "up"}) ${share}%, var(--raised))`;
}

const lineOf = (name) => LINES.findIndex((line) => line.name === name);
const isThere = (name) => lineOf(name) < step;

function build() {
  byId("title").textContent = document.title;
  // Forward values down the page, and each one's gradient beside it, to be read up.
  for (const [n, { title, pairs }] of data.groups.entries()) {
    const group = document.createElement(title ? "details" : "div");
    const inside = document.createElement("div");
    inside.className = "pairs";
    if (title) {
      group.open = true;
      group.id = `group-${n}`;
      group.append(Object.assign(document.createElement("summary"), { textContent: title }));
      byId("part").append(new Option(title, group.id));
    }
    for (const each of pairs.flat()) inside.append(each ? panel(each) : document.createElement("span"));
    group.append(inside);
    byId("panels").append(group);
  }
  byId("part").parentElement.hidden = data.groups.length < 2;
}

// Open the part that a panel is in, and bring the panel into sight.
function reveal(name) {
  const box = byId(`panel-${name}`);
  const group = box?.closest("details");
  if (!group) return;
  group.open = true;
  byId("part").value = group.id;
  box.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function panel(name) {
  const box = document.createElement("section");
  box.className = "panel" + (GIVEN.includes(name) ? " given" : "");
  box.id = `panel-${name}`;
  box.setAttribute("aria-label", name + (GIVEN.includes(name) ? ", given" : ""));
  const head = document.createElement("h3");
  const [rows, columns] = [values[name].length, values[name][0].length];
  head.append(name, " ");
  const small = document.createElement("small");
  small.textContent = `${rows} x ${columns}`;
  head.append(small);
  const table = document.createElement("table");
  table.setAttribute("role", "grid");
  cells[name] = range(rows).map((i) => {
    const row = table.insertRow();
    return range(columns).map((j) => {
      const button = document.createElement("button");
      button.tabIndex = i + j ? -1 : 0;
      button.addEventListener("click", () => choose(name, i, j));
      button.addEventListener("keydown", (event) => walk(event, name, i, j));
      row.insertCell().append(button);
      return button;
    });
  });
  box.append(head, table);
  return box;
}

function walk(event, name, i, j) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const move = moves[event.key];
  const to = move && cells[name][i + move[0]]?.[j + move[1]];
  if (!to) return;
  event.preventDefault();
  to.focus();
  choose(name, i + move[0], j + move[1]);
}

function choose(name, i, j) {
  chosen = { name, i, j };
  draw();
}

function draw() {
  const line = LINES[step - 1];
  const most = (name) => Math.max(...values[name].flat().map(Math.abs).filter(Number.isFinite), 0);
  for (const [name, rows] of Object.entries(cells)) {
    const box = byId(`panel-${name}`);
    const there = isThere(name);
    const largest = most(name);
    box.classList.toggle("later", !there);
    box.classList.toggle("now", Boolean(line) && step < LINES.length && line.name === name);
    box.classList.toggle("read", Boolean(line) && step < LINES.length && line.reads.includes(name));
    rows.forEach((row, i) => row.forEach((button, j) => {
      const x = values[name][i][j];
      button.textContent = shown(x);
      button.style.background = colour(x, largest);
      button.setAttribute("aria-label", `${name} ${i}, ${j}: ${there ? shown(x) : "not yet"}`);
      const here = chosen.name === name && chosen.i === i && chosen.j === j;
      button.setAttribute("aria-current", String(here));
    }));
  }
  byId("line").textContent = step === LINES.length
    ? `all ${LINES.length} lines; loss = ${shown(values.loss)}`
    : step ? `line ${step} of ${LINES.length}: ${line.title}` : "before the first line: what is given";
  explain();
}

function explain() {
  const { name, i, j } = chosen;
  const line = LINES[lineOf(name)];
  const x = values[name][i][j];
  byId("which").textContent = `${name}[${i},${j}] = ${isThere(name) ? shown(x) : "not yet"}`;
  byId("edit").hidden = Boolean(line);
  if (document.activeElement !== byId("number")) byId("number").value = String(x);
  const there = line && isThere(name);
  byId("formula").textContent = !line ? "given"
    : there ? `${line.title}\n${name}[${i},${j}] = ${line.formula(values, i, j)} = ${shown(x)}` : line.title;
  byId("slopes-title").textContent = there ? `How ${name}[${i},${j}] changes with` : "";
  byId("slopes").replaceChildren(...(there ? line.slopes(values, i, j) : []).map(([what, slope]) => {
    const item = document.createElement("li");
    item.textContent = `${what}: ${shown(slope)}`;
    return item;
  }));
}

function go(to) {
  step = Math.max(0, Math.min(LINES.length, to));
  const line = LINES[step - 1];
  if (line && step < LINES.length) chosen = { name: line.name, i: 0, j: 0 };
  draw();
  if (line && step < LINES.length) reveal(line.name);
}

function reset() {
  given = fresh();
  values = compute(given);
  draw();
}

function theme() {
  const root = document.documentElement;
  const dark = root.classList.contains("dark")
    || (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  root.classList.remove("dark", "light");
  root.classList.add(dark ? "light" : "dark");
}

byId("number").addEventListener("input", (event) => {
  const x = event.target.valueAsNumber;
  if (!Number.isFinite(x)) return;
  given[chosen.name][chosen.i][chosen.j] = x;
  values = compute(given);
  draw();
});
byId("part").addEventListener("change", (event) => {
  const group = byId(event.target.value);
  group.open = true;
  group.scrollIntoView({ block: "start" });
});
const ACTIONS = {
  first: () => go(0),
  back: () => go(step - 1),
  next: () => go(step + 1),
  last: () => go(LINES.length),
  reset,
  theme,
};
for (const [id, action] of Object.entries(ACTIONS)) byId(id).addEventListener("click", action);
const KEYS = { n: "next", b: "back", r: "reset", t: "theme", Home: "first", End: "last" };
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (KEYS[event.key]) {
    event.preventDefault();
    ACTIONS[KEYS[event.key]]();
  }
});
build();
draw();
document.documentElement.dataset.ready = "1";
