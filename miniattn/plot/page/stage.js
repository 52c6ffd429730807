// ------------------------------------------------------------------------------- stage

const stage = $("stage");
const canvas = $("canvas");
const pen = canvas.getContext("2d");
let box = {}; // where things lie, for the pointer

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
  (state.view === "lines" ? drawLines : drawMap)(W, H);
}

function resizeExtent(w, h) {
  $("extent").style.width = `${Math.max(w, stage.clientWidth)}px`;
  $("extent").style.height = `${Math.max(h, stage.clientHeight)}px`;
}

