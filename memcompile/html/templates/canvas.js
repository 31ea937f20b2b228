"use strict";
/* A canvas that can be moved and zoomed, and the mapping that the canvases of the report show. */

class View {
  /* `draw(context, view)` paints; world coordinates are whatever the owner says. With `square` both axes zoom alike. */
  constructor(canvas, { draw, height, square, pick, hover }) {
    Object.assign(this, { canvas, draw, height, square, pick, hover });
    this.context = canvas.getContext("2d");
    this.x = 0; this.y = 0; this.sx = 1; this.sy = 1;
    this.world = [1, 1];
    this.pointers = new Map();
    this.fitted = true;
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    page.onTheme(() => this.paintNow());
    /* What nobody sees is painted when it comes into sight, or on paper. */
    this.away = this.stale = false;
    new IntersectionObserver((entries) => { this.away = !entries.at(-1).isIntersecting; if (this.stale) this.paint(); }).observe(canvas);
    window.addEventListener("beforeprint", () => { if (this.stale) this.paintNow(); });
    this.listen();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.w = this.canvas.parentElement.clientWidth;
    this.h = typeof this.height === "function" ? this.height(this.w) : this.height;
    this.canvas.width = Math.round(this.w * ratio);
    this.canvas.height = Math.round(this.h * ratio);
    this.canvas.style.height = this.h + "px";
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.fitted) this.fit(); else this.paintNow();
  }

  fit() { this.show(0, 0, ...this.world); this.fitted = true; }

  /* Shows a rectangle of the world, centred. */
  show(x, y, width, height, most = Infinity) {
    const margin = 8;
    this.sx = Math.min((this.w - 2 * margin) / width, most);
    this.sy = Math.min((this.h - 2 * margin) / height, most);
    if (this.square) this.sx = this.sy = Math.min(this.sx, this.sy);
    this.x = x + width / 2 - this.w / this.sx / 2;
    this.y = y + height / 2 - this.h / this.sy / 2;
    this.least = this.least || [this.sx, this.sy];
    this.fitted = false;
    this.paint();
  }

  zoom(factor, px = this.w / 2, py = this.h / 2) {
    const wx = this.x + px / this.sx, wy = this.y + py / this.sy;
    const lowest = Math.min(this.w / this.world[0], this.h / this.world[1]) / 4;
    const limited = (scale, low, high) => Math.min(Math.max(scale * factor, low), high);
    this.sx = this.square ? limited(this.sx, lowest, 80) : limited(this.sx, this.w / this.world[0] / 1.5, 200);
    this.sy = this.square ? this.sx : limited(this.sy, this.h / this.world[1] / 1.5, 60);
    this.x = wx - px / this.sx; this.y = wy - py / this.sy;
    this.fitted = false;
    this.paint();
  }

  pan(dx, dy) { this.x -= dx / this.sx; this.y -= dy / this.sy; this.fitted = false; this.paint(); }

  paint() {
    this.stale = this.away;
    if (this.asked || this.away) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.paintNow(); });
  }

  paintNow() {
    if (!this.w) return;
    this.stale = false;
    this.context.clearRect(0, 0, this.w, this.h);
    this.draw(this.context, this);
  }

  px(x) { return (x - this.x) * this.sx; }
  py(y) { return (y - this.y) * this.sy; }
  wx(px) { return this.x + px / this.sx; }
  wy(py) { return this.y + py / this.sy; }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      /* A page must scroll on: only with a key does the wheel zoom. Pinches on a touchpad come with one. */
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.004)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.moved = 0;
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before) { this.hover(this.wx(event.offsetX), this.wy(event.offsetY)); return; }
      const now = [event.offsetX, event.offsetY];
      if (this.pointers.size === 1) {
        this.moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
        this.pan(now[0] - before[0], now[1] - before[1]);
      } else {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const length = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
        this.moved = 99;
        this.zoom(length(now, other) / length(before, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      this.pointers.set(event.pointerId, now);
    });
    const up = (event) => {
      const was = this.pointers.delete(event.pointerId);
      if (was && event.type === "pointerup" && this.moved < 6) this.pick(this.wx(event.offsetX), this.wy(event.offsetY));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("touchstart", (event) => { if (event.touches.length > 1) event.preventDefault(); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (moves[event.key]) this.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.5);
      else if (event.key === "-") this.zoom(1 / 1.5);
      else if (event.key === "0" || event.key === "Escape") this.fit();
      else if (event.key === "Enter") this.pick(this.wx(this.w / 2), this.wy(this.h / 2));
      else return;
      event.preventDefault();
      this.hover(this.wx(this.w / 2), this.wy(this.h / 2));
    });
  }
}

/* The mapping: columns of the tile table by name, tiles of each array, and the layers that are picked out. */
const mapping = (() => {
  const facts = page.data("mapping");
  const tile = {};
  const picked = new Set();
  const watchers = [];
  let first = null, order = null, kinds = null, pauses = null;

  async function load() {
    const buffer = await page.unpacked("mapping");
    let place = 0;
    const take = (count) => { const part = new Int32Array(buffer, place, count); place += 4 * count; return part; };
    for (const name of facts.columns) tile[name] = take(facts.tiles);
    pauses = take(3 * facts.pauses);
    kinds = take(facts.intervals.length * facts.arrays);
    const places = facts.intervals.length * facts.arrays;
    first = new Int32Array(places + 1);
    for (let i = 0; i < facts.tiles; i++) first[tile.segment[i] * facts.arrays + tile.array[i] + 1]++;
    for (let i = 0; i < places; i++) first[i + 1] += first[i];
    const next = first.slice();
    order = new Int32Array(facts.tiles);
    for (let i = 0; i < facts.tiles; i++) order[next[tile.segment[i] * facts.arrays + tile.array[i]]++] = i;
  }

  function tilesOf(segment, array) {
    const place = segment * facts.arrays + array;
    return array < facts.arrays ? order.subarray(first[place], first[place + 1]) : [];
  }

  function isDim(layer) { return picked.size > 0 && !picked.has(layer); }
  function changed() { for (const watcher of watchers) watcher(); }

  function label(i) {
    const layer = facts.layers[tile.layer[i]];
    return layer.name + (layer.replicas > 1 ? " #" + (tile.replica[i] + 1) : "");
  }

  /* Runs of steps without a pause of a tile of one image alone: [first, last + 1] each. */
  function runs(i) {
    const load = tile.load[i], rhythm = tile.rhythm[i];
    if (rhythm === 0 || facts.pauses === 0) return [[tile.start[i], tile.last[i] + 1]];
    let low = 0, high = facts.pauses;
    while (low < high) { const middle = (low + high) >> 1; if (pauses[3 * middle] < rhythm) low = middle + 1; else high = middle; }
    const found = [];
    let begin = tile.start[i], done = 0;
    for (; low < facts.pauses && pauses[3 * low] === rhythm && pauses[3 * low + 1] < load; low++) {
      const at = pauses[3 * low + 1];
      found.push([begin, begin + at - done]);
      begin += at - done + pauses[3 * low + 2];
      done = at;
    }
    found.push([begin, begin + load - done]);
    return found;
  }

  function legend() {
    const list = document.getElementById("legend");
    facts.layers.forEach((layer, number) => {
      const item = document.createElement("li"), button = document.createElement("button"), dot = document.createElement("span");
      dot.className = "dot";
      dot.style.background = layer.colour;
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.append(dot, layer.name);
      button.addEventListener("click", () => {
        if (picked.has(number)) picked.delete(number); else picked.add(number);
        button.setAttribute("aria-pressed", String(picked.has(number)));
        changed();
      });
      item.append(button);
      list.append(item);
    });
    page.onSearch((wanted) => {
      picked.clear();
      if (wanted) facts.layers.forEach((layer, number) => { if (layer.name.toLowerCase().includes(wanted)) picked.add(number); });
      list.querySelectorAll("button").forEach((button, number) => button.setAttribute("aria-pressed", String(picked.has(number))));
      changed();
    });
  }

  let loading = null;
  const ready = () => (loading = loading || load());
  page.onStart(legend);
  return { facts, tile, ready, tilesOf, isDim, label, runs, kindOf: (segment, array) => kinds[segment * facts.arrays + array], onChange: (watcher) => watchers.push(watcher) };
})();

/* Ink on a colour that can be read. */
function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#101418" : "#ffffff";
}

function faded(colour, dim) { return dim ? colour + "30" : colour; }
