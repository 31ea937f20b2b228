"use strict";
/* The schedule: which tile works in which array in which step, in the steady state and of one image alone. */
page.onStart(async () => {
  const facts = mapping.facts, tile = mapping.tile;
  const canvas = document.getElementById("gantt"), status = document.getElementById("gantt-status");
  const axis = 22, stripe = 5;
  let mode = "steady", segment = 0, rows = [], bars = [], busy = [], length = 1;
  let place = new Map();

  /* Bars as [row, first, last + 1, tile], by row. */
  function build() {
    const interval = Math.max(facts.intervals[segment], 1);
    length = mode === "steady" ? interval : Math.max(facts.latencies[segment], 1);
    rows = []; bars = []; busy = [];
    for (let array = 0; array < facts.arrays; array++) {
      const tiles = mapping.tilesOf(segment, array);
      if (tiles.length === 0) continue;
      const own = [];
      let steps = 0;
      for (const i of tiles) {
        steps += tile.load[i];
        if (mode === "alone") { for (const [a, b] of mapping.runs(i)) own.push([a, b, i]); continue; }
        /* Steps beyond the end of the interval go on at its beginning. */
        const end = tile.slot[i] + tile.load[i];
        own.push([tile.slot[i], Math.min(end, interval), i]);
        if (end > interval) own.push([0, end - interval, i]);
      }
      rows.push(array); bars.push(own); busy.push(union(own) / interval);
    }
    place = new Map(rows.map((array, row) => [array, row]));
    view.world = [length, rows.length];
  }

  /* Steps in which an array works; tiles may share a step. */
  function union(own) {
    let total = 0, until = 0;
    for (const [a, b] of [...own].sort((one, other) => one[0] - other[0])) {
      total += Math.max(0, b - Math.max(a, until));
      until = Math.max(until, b);
    }
    return total;
  }

  function draw(context, view) {
    const high = view.sy, thick = Math.max(high * (high > 4 ? 0.84 : 1), 1);
    const firstRow = Math.max(0, Math.floor(view.y)), lastRow = Math.min(rows.length - 1, Math.floor(view.wy(view.h - axis)));
    const mark = page.colour("mark");
    context.save();
    context.beginPath();
    context.rect(0, 0, view.w, view.h - axis);
    context.clip();
    for (let row = firstRow; row <= lastRow; row++) {
      const y = view.py(row) + (high - thick) / 2;
      for (const [a, b, i] of bars[row]) {
        const x = view.px(a), w = Math.max((b - a) * view.sx - (view.sx > 4 ? 1 : 0), 0.7);
        if (x > view.w || x + w < 0) continue;
        const colour = facts.layers[tile.layer[i]].colour;
        context.fillStyle = faded(colour, mapping.isDim(tile.layer[i]));
        context.fillRect(x, y, w, thick);
        if (thick > 12 && w > 44 && !mapping.isDim(tile.layer[i])) label(context, mapping.label(i), x, y, w, thick, colour);
      }
      if (mode === "steady" && busy[row] > 0.9999) { context.fillStyle = mark; context.fillRect(0, y, stripe, thick); }
    }
    context.restore();
    drawAxis(context, view);
  }

  function label(context, text, x, y, w, h, colour) {
    context.font = "11px system-ui, sans-serif";
    if (context.measureText(text).width + 6 > w) return;
    context.fillStyle = inkOn(colour);
    context.textAlign = "left"; context.textBaseline = "middle";
    context.fillText(text, Math.max(x, 0) + 3, y + h / 2);
  }

  function drawAxis(context, view) {
    const y = view.h - axis;
    context.fillStyle = page.colour("ground");
    context.fillRect(0, y, view.w, axis);
    context.strokeStyle = page.colour("line");
    context.fillStyle = page.colour("soft");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center"; context.textBaseline = "middle";
    let step = 1;
    while (step * view.sx < 60) step *= [2, 2.5, 2][Math.round(Math.log10(step) * 3) % 3];
    step = Math.max(1, Math.round(step));
    for (let at = Math.max(0, Math.ceil(view.x / step) * step); at <= length && view.px(at) < view.w; at += step) {
      context.beginPath();
      context.moveTo(view.px(at), y); context.lineTo(view.px(at), y + 4);
      context.stroke();
      context.fillText(at.toLocaleString("en"), Math.min(Math.max(view.px(at), 12), view.w - 20), y + 13);
    }
  }

  function describe(x, y) {
    const row = Math.floor(y), step = Math.floor(x);
    if (row < 0 || row >= rows.length || step < 0 || step >= length) { status.textContent = ""; return; }
    const working = bars[row].filter(([a, b]) => step >= a && step < b).map(([, , i]) => mapping.label(i));
    const share = mode === "steady" ? `; works in ${(100 * busy[row]).toFixed(0)} % of all steps` : "";
    status.textContent = `array ${rows[row]}, step ${step}: ${[...new Set(working)].join(", ") || "idle"}${share}`;
  }

  const view = new View(canvas, {
    draw, square: false, pick: describe, hover: describe,
    height: () => Math.max(160, Math.min(420, 26 * Math.max(rows.length, 1) + axis + 16)),
  });
  view.show = function (x, y, width, height) {
    this.sx = (this.w - stripe - 6) / width; this.sy = (this.h - axis - 4) / height;
    this.x = x - (stripe + 2) / this.sx; this.y = y - 2 / this.sy;
    this.fitted = false;
    this.paint();
  };

  function again() { build(); view.resize(); view.fit(); }

  function setMode(wanted) {
    mode = wanted;
    document.querySelectorAll("[data-schedule=steady], [data-schedule=alone]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.schedule === mode)));
    again();
  }

  const actions = {
    steady: () => setMode("steady"), alone: () => setMode("alone"), all: () => view.fit(),
    in: () => view.zoom(1.6), out: () => view.zoom(1 / 1.6),
  };
  document.querySelectorAll("[data-schedule]").forEach((button) => button.addEventListener("click", () => actions[button.dataset.schedule]()));
  const segments = document.getElementById("plan-segment");
  if (segments) segments.addEventListener("change", () => { segment = Number(segments.value); again(); });
  mapping.onChange(() => view.paint());
  await mapping.ready();
  again();
});
