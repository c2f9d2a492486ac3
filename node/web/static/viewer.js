// The evidence viewer: one frame large, in one of its layers, with zoom; pictures may still be in the making.
const SAID = { 404: "There is no such picture of this frame.", 410: "The pixels of this frame were purged." };
const NOT_HAD = "The picture cannot be had now; load the page again.";
const MOST = 8;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// Ask until the picture is made, there is none, or it is no longer wanted.
async function made(url, isWanted) {
  for (let tries = 0; tries < 120 && isWanted(); tries++) {
    const answer = await fetch(url, { method: "HEAD", headers: { "X-Live": "1" } }).catch(() => null);
    if (answer?.status === 200) return { url };
    if (answer?.status !== 202) return { error: SAID[answer?.status] || NOT_HAD };
    await wait(Math.min(3000, 400 + 200 * tries));
  }
  return { error: "The picture is not made yet: is the worker running?" };
}

// A reading that appears by itself brings its viewer along.
function begin() {
  const viewer = document.getElementById("viewer");
  if (!viewer || viewer.dataset.begun) return;
  viewer.dataset.begun = "yes";
  const large = document.getElementById("large");
  const note = document.getElementById("viewer-note");
  const stage = document.getElementById("stage");
  const frames = [...viewer.querySelectorAll("[data-position]")];
  const layers = [...viewer.querySelectorAll("[data-layer]")];
  const about = viewer.querySelectorAll("[data-about]");
  const address = (position, which) => `/exams/${viewer.dataset.exam}/pictures/${position}/${which}.png`;
  let at = 0, layer = "frame", zoom = 1, x = 0, y = 0, asked = 0;

  function place() {
    const reach = (zoom - 1) / 2;
    x = Math.max(-reach, Math.min(reach, x));
    y = Math.max(-reach, Math.min(reach, y));
    large.style.transform = `translate(${100 * x}%, ${100 * y}%) scale(${zoom})`;
    stage.classList.toggle("zoomed", zoom > 1);
    document.getElementById("zoom-says").textContent = `${Math.round(100 * zoom)} %`;
  }
  function zoomTo(value) {
    zoom = Math.max(1, Math.min(MOST, value));
    place();
  }
  // No picture stands under another's words: the last one goes before the next is asked for.
  async function show() {
    const turn = ++asked;
    const frame = frames[at];
    frames.forEach((each, number) => each.setAttribute("aria-pressed", String(number === at)));
    layers.forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.layer === layer)));
    about.forEach((each) => { each.hidden = each.dataset.about !== frame.dataset.position; });
    large.hidden = true;
    note.hidden = false;
    note.textContent = "Preparing the picture…";
    let { url, error } = await made(address(frame.dataset.position, layer), () => turn === asked);
    if (turn !== asked) return;
    if (url) {
      large.src = url;
      large.alt = `${frame.dataset.says}; ${layer}`;
      await large.decode().catch(() => { error = NOT_HAD; });
      if (turn !== asked) return;
    }
    large.hidden = Boolean(error);
    note.hidden = !error;
    note.textContent = error || "";
  }
  function go(to) {
    at = (to + frames.length) % frames.length;
    show();
  }

  frames.forEach((frame, number) => {
    frame.addEventListener("click", () => go(number));
    const small = frame.querySelector("img");
    made(address(frame.dataset.position, "frame"), () => viewer.isConnected).then((found) => {
      if (found.url) small.src = found.url;
    });
  });
  // A layer's button pressed again leads back to the frame.
  layers.forEach((button) => button.addEventListener("click", () => {
    layer = layer === button.dataset.layer ? "frame" : button.dataset.layer;
    show();
  }));
  document.getElementById("next-frame").addEventListener("click", () => go(at + 1));
  document.getElementById("previous-frame").addEventListener("click", () => go(at - 1));
  document.getElementById("zoom-in").addEventListener("click", () => zoomTo(zoom * 1.5));
  document.getElementById("zoom-out").addEventListener("click", () => zoomTo(zoom / 1.5));
  document.getElementById("zoom-reset").addEventListener("click", () => { x = y = 0; zoomTo(1); });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && zoom === 1 && event.deltaY > 0) return;
    event.preventDefault();
    zoomTo(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
  }, { passive: false });
  stage.addEventListener("pointermove", (event) => {
    if (!event.buttons || zoom === 1) return;
    x += event.movementX / stage.clientWidth;
    y += event.movementY / stage.clientHeight;
    place();
  });
  stage.addEventListener("dblclick", () => zoomTo(zoom > 1 ? 1 : 2.5));
  document.querySelectorAll("[data-shows]").forEach((mark) => {
    mark.addEventListener("click", () => {
      go(frames.findIndex((frame) => frame.dataset.position === mark.dataset.shows));
      viewer.scrollIntoView({ block: "nearest" });
    });
  });
  go(0);
}
document.addEventListener("htmx:afterSwap", begin);
begin();
