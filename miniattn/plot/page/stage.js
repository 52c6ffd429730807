// ------------------------------------------------------------------------------- stage

const stage = $("stage");
const canvas = $("canvas");
const screen2d = canvas.getContext("2d");
let pen = screen2d; // what is drawn with: the stage's, or that of a picture to be saved
let box = {}; // where things lie, for the pointer
let scroll = { left: 0, top: 0 }; // what of the picture begins the stage

const lying = () => state.view === "lines" && state.across;

function draw() {
  const [W, H] = [stage.clientWidth, stage.clientHeight];
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(W * ratio) || canvas.height !== Math.round(H * ratio)) {
    canvas.width = Math.round(W * ratio);
    canvas.height = Math.round(H * ratio);
    canvas.style.width = `${W}px`;
    canvas.style.height = `${H}px`;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, W, H);
  pen.textBaseline = "middle";
  if (state.view === "map") placeMap(W, H);
  else placeLines(lying() ? H : W);
  scroll = { left: stage.scrollLeft, top: stage.scrollTop };
  paint(W, H);
}

// Draw what is on show, from `scroll` on, W x H.
function paint(W, H) {
  if (state.view === "map") return drawMap(W, H);
  if (!lying()) return drawLines(W, H);
  pen.save(); // lines from left to right, turned to the left
  pen.translate(0, H);
  pen.rotate(-Math.PI / 2);
  drawLines(H, W);
  pen.restore();
}

function resizeExtent(w, h) {
  box.extent = [Math.max(w, stage.clientWidth), Math.max(h, stage.clientHeight)];
  [$("extent").style.width, $("extent").style.height] = box.extent.map((side) => `${side}px`);
}

