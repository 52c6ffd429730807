// ----------------------------------------------------------------------------------- start

function switchTheme() {
  const name = theme.name === "dark" ? "light" : "dark";
  document.documentElement.classList.remove("dark", "light");
  document.documentElement.classList.add(name);
  repaint();
}

function repaint() {
  readTheme();
  paintThumbnails();
  update();
}

function listen() {
  $("lines").onclick = () => view("lines");
  $("map").onclick = () => view("map");
  $("of-query").onclick = () => point("query");
  $("of-key").onclick = () => point("key");
  $("across").onclick = turn;
  $("mean").onclick = () => set({ mean: !state.mean });
  $("words").onclick = () => set({ words: !state.words });
  $("value").onchange = (event) => set({ value: event.target.value });
  $("svg").onclick = () => save("svg");
  $("png").onclick = () => save("png");
  $("theme").onclick = switchTheme;
  $("ask").onclick = () => $("help").showModal();
  $("mass").oninput = (event) => {
    state.mass[state.view] = Number(event.target.value);
    update();
  };
  $("scale").onchange = (event) => {
    state.scale = event.target.value;
    update();
  };
  $("search").oninput = (event) => {
    state.search = event.target.value;
    update();
  };
  stage.addEventListener("pointermove", hover);
  stage.addEventListener("pointerleave", () => {
    state.cell = null;
    if (!state.pinned) state.token = null;
    update();
  });
  stage.addEventListener("click", (event) => head && pin(at(event)));
  stage.addEventListener("scroll", update, { passive: true });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, { passive: false });
  document.addEventListener("keydown", keydown);
  dark.addEventListener("change", repaint);
  new ResizeObserver(update).observe(stage);
  addEventListener("resize", fit);
}

async function start() {
  $("title").textContent = page.title;
  for (const [key, what] of KEYS) $("keys").append(element("dt", key), element("dd", what));
  chooser();
  readTheme();
  paintThumbnails();
  listen();
  await choose(0, 0);
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // ms since opening
}

start();
