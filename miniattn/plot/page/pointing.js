// ------------------------------------------------------------------------------- pointing

// What lies at a point of the stage: {side, token} or {cell}.
function at(event) {
  const rect = canvas.getBoundingClientRect();
  let [px, py] = [event.clientX - rect.left, event.clientY - rect.top];
  if (state.view === "lines") {
    if (state.across) [px, py] = [rect.height - py, px];
    const token = Math.floor((py + gone() - TOP) / box.step);
    const middle = (box.x1 + box.x2) / 2;
    const side = px < middle ? "query" : "key";
    const near = px < box.x1 + 24 || px > box.x2 - 24;
    return near && py >= TOP - 6 && token >= 0 && token < head.tokens[side].length ? { side, token } : null;
  }
  const i = Math.floor((py + stage.scrollTop - box.y) / box.cell);
  const j = Math.floor((px + stage.scrollLeft - box.x) / box.cell);
  const [inRows, inColumns] = [py >= box.y && i < head.T, px >= box.x && j < head.S];
  if (inRows && inColumns) return { cell: [i, j], side: state.side, token: state.side === "query" ? i : j };
  if (inRows && i >= 0) return { side: "query", token: i };
  if (inColumns && j >= 0) return { side: "key", token: j };
  return null;
}

function hover(event) {
  if (!head) return;
  const hit = at(event);
  const before = [state.side, state.token, state.cell].join();
  state.cell = hit?.cell ?? null;
  if (!state.pinned) Object.assign(state, { side: hit?.side ?? state.side, token: hit?.token ?? null });
  if (before !== [state.side, state.token, state.cell].join()) update();
}

function pin(hit) {
  const again = state.pinned && hit && hit.side === state.side && hit.token === state.token;
  if (!hit || again) state.pinned = false;
  else Object.assign(state, { side: hit.side, token: hit.token, pinned: true });
  if (!hit) state.token = null;
  update();
}

function view(name) {
  Object.assign(state, { view: name, cell: null, zoom: 1 });
  stage.scrollTo(0, 0);
  update();
  if (state.token !== null) requestAnimationFrame(reveal);
}

function turn() {
  state.across = !state.across;
  stage.scrollTo(0, 0);
  update();
  if (state.token !== null) requestAnimationFrame(reveal);
}

function point(side) {
  const other = state.side !== side;
  Object.assign(state, { side, cell: null });
  if (other && state.token !== null) {
    state.token = Math.min(state.token, head.tokens[side].length - 1);
  }
  update();
}

function move(step) {
  const count = head.tokens[state.side].length;
  const from = state.token ?? (step > 0 ? -1 : count);
  go(Math.max(0, Math.min(count - 1, from + step)));
}

// A token chosen by keyboard stays while the mouse moves: it is pinned.
function go(token) {
  Object.assign(state, { token, pinned: true, cell: null });
  update();
  requestAnimationFrame(reveal);
}

function reveal() {
  if (state.token === null) return;
  if (state.view === "lines") {
    const y = state.token * box.step;
    if (state.across) into("scrollLeft", y, y + box.step, stage.clientWidth - TOP - 16);
    else into("scrollTop", y, y + box.step, stage.clientHeight - TOP - 16);
  } else {
    const near = state.token * box.cell;
    if (state.side === "query") into("scrollTop", near, near + box.cell, stage.clientHeight - box.y - 16);
    else into("scrollLeft", near, near + box.cell, stage.clientWidth - box.x - 24);
  }
}

function into(scroll, from, to, room) {
  if (from < stage[scroll] || to > stage[scroll] + room) stage[scroll] = (from + to - room) / 2;
}

function zoom(factor) {
  state.zoom = Math.max(0.5, Math.min(24, state.zoom * factor));
  if (state.view === "lines") state.zoom = Math.min(state.zoom, 2);
  update();
}

// ---------------------------------------------------------------------------------- search

const found = () =>
  ["query", "key"].flatMap((side) =>
    side === "key" && head.tokens.key === head.tokens.query
      ? []
      : span(head.tokens[side].length)
          .filter((n) => matches(head.tokens[side][n]))
          .map((token) => ({ side, token })),
  );

// The next or previous match after the token on show, round the end.
function next(step) {
  const hits = found();
  if (!hits.length) return;
  const same = head.tokens.key === head.tokens.query;
  const here = hits.findIndex((hit) => hit.token === state.token && (same || hit.side === state.side));
  const hit = hits[here < 0 ? (step > 0 ? 0 : hits.length - 1) : (here + step + hits.length) % hits.length];
  if (!same) state.side = hit.side;
  go(hit.token);
}

