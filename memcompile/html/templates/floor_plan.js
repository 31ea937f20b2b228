"use strict";
/* Chips, arrays, tiles and cells on one canvas, from the whole system down to a cell. */
page.onStart(async () => {
  const facts = mapping.facts, tile = mapping.tile;
  const canvas = document.getElementById("plan"), status = document.getElementById("plan-status");
  const columns = facts.output_lines * facts.cells_per_crossing, lines = facts.input_lines;
  /* Long and flat arrays are drawn higher, so that a line can be seen. */
  const cellHeight = Math.min(Math.max(columns / lines / 3, 0.5), 4);
  const boxWidth = columns, boxHeight = lines * cellHeight, gap = 0.08 * Math.max(boxWidth, boxHeight);
  const perChip = Math.min(facts.arrays_per_chip, facts.chips === 1 ? Math.max(facts.arrays, facts.arrays_per_chip) : facts.arrays_per_chip);
  const across = gridWidth(perChip, (boxHeight + gap) / (boxWidth + gap), 2.2);
  const chipWidth = across * (boxWidth + gap) + gap, chipHeight = Math.ceil(perChip / across) * (boxHeight + gap) + gap;
  const chipsAcross = gridWidth(facts.chips, chipHeight / chipWidth, 2.2);
  const chipGap = facts.chips > 1 ? 0.03 * Math.max(chipWidth, chipHeight) : 0;
  const cellFacts = page.data("cells");
  /* Width of an array in pixels up to which it is a plain box. */
  const PLAIN_BELOW = 40;
  let segment = 0, colourBy = "layer", selected = null, cells = null;

  function gridWidth(count, shape, wanted) { return Math.max(1, Math.min(count, Math.round(Math.sqrt(count * shape * wanted)))); }

  function boxOf(array) {
    const chip = Math.floor(array / perChip), own = array % perChip;
    return [
      (chip % chipsAcross) * (chipWidth + chipGap) + gap + (own % across) * (boxWidth + gap),
      Math.floor(chip / chipsAcross) * (chipHeight + chipGap) + gap + Math.floor(own / across) * (boxHeight + gap),
    ];
  }

  function arrayAt(x, y) {
    const chipX = Math.floor(x / (chipWidth + chipGap)), chipY = Math.floor(y / (chipHeight + chipGap));
    if (chipX < 0 || chipY < 0 || chipX >= chipsAcross) return null;
    const ownX = Math.floor((x - chipX * (chipWidth + chipGap) - gap) / (boxWidth + gap));
    const ownY = Math.floor((y - chipY * (chipHeight + chipGap) - gap) / (boxHeight + gap));
    if (ownX < 0 || ownX >= across || ownY < 0) return null;
    const array = (chipY * chipsAcross + chipX) * perChip + ownY * across + ownX;
    if (ownY * across + ownX >= perChip || array >= facts.chips * perChip) return null;
    const [left, top] = boxOf(array);
    return x < left + boxWidth && y < top + boxHeight ? array : null;
  }

  function use(array) {
    let used = 0;
    for (const [i] of placesOf(array)) used += (tile.row_end[i] - tile.row_begin[i]) * width(i);
    return used / (lines * columns);
  }

  /* Tiles at each place of an array: layers that share cells have one each, and the first of them stands for all. */
  const places = new Map();
  function placesOf(array) {
    const key = segment * facts.arrays + array;
    if (!places.has(key)) {
      const found = new Map();
      for (const i of mapping.tilesOf(segment, array)) {
        const place = tile.input_line[i] * columns + tile.output_line[i];
        if (found.has(place)) found.get(place).push(i); else found.set(place, [i]);
      }
      places.set(key, [...found.values()]);
    }
    return places.get(key);
  }

  function labelOf(here) { return mapping.label(here[0]) + (here.length > 1 ? ` + ${here.length - 1}` : ""); }

  function width(i) { return (tile.column_end[i] - tile.column_begin[i]) * facts.layers[tile.layer[i]].lines * facts.cells_per_crossing; }

  /* From dark blue to yellow, even in lightness for all kinds of colour vision (cividis). */
  function ramp(share) {
    const stops = [[0, 34, 78], [66, 78, 108], [124, 123, 120], [187, 172, 108], [254, 232, 56]];
    const at = Math.min(Math.max(share, 0), 1) * 4, low = Math.min(Math.floor(at), 3);
    return "#" + stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (at - low)).toString(16).padStart(2, "0")).join("");
  }

  /* ---- cells ---- */

  async function loadCells() {
    if (!cellFacts) return;
    const buffer = await page.unpacked("cells");
    const count = cellFacts.places.length * lines * columns;
    cells = {
      weight: new Int32Array(buffer, 0, count),
      conductance: new Uint16Array(buffer, 4 * count, count),
      level: new Uint8Array(buffer, 6 * count, count),
      number: new Map(cellFacts.places.map((place, number) => [place, number])),
      stuck: new Set(cellFacts.stuck.map(([number, cell]) => number * lines * columns + cell)),
      images: new Map(),
    };
    view.paint();
  }

  /* Number of an array's cells in the list: its own, or those of an array that holds the same weights. */
  function listed(array) {
    if (!cells) return null;
    const own = cells.number.get(segment * facts.arrays + array);
    if (own !== undefined) return { number: own, own: true };
    const kind = mapping.kindOf(segment, array);
    const like = kind < 0 ? undefined : cells.number.get(facts.kinds[kind][0]);
    return like === undefined ? null : { number: like, own: false };
  }

  function imageOf(array) {
    const found = listed(array);
    if (!found) return null;
    const key = found.number + (page.isDark() ? "dark" : "light");
    if (cells.images.has(key)) return cells.images.get(key);
    const image = document.createElement("canvas");
    image.width = columns; image.height = lines;
    const context = image.getContext("2d"), pixels = context.createImageData(columns, lines);
    const base = found.number * lines * columns;
    for (let cell = 0; cell < lines * columns; cell++) {
      if (cells.weight[base + cell] === -2) continue;
      const share = cells.level[base + cell] / cellFacts.highest;
      const alpha = cells.weight[base + cell] === -1 ? 0.86 : 0.72 * (1 - share);
      pixels.data.set([255, 255, 255, Math.round(255 * alpha)], 4 * cell);
    }
    context.putImageData(pixels, 0, 0);
    cells.images.set(key, image);
    return image;
  }

  /* ---- painting ---- */

  function draw(context, view) {
    if (!mapping.tile.layer) return;
    const empty = page.colour("empty"), line = page.colour("line"), ink = page.colour("ink"), ground = page.colour("ground");
    const scale = view.sx;
    for (let chip = 0; chip < facts.chips; chip++) {
      const x = view.px((chip % chipsAcross) * (chipWidth + chipGap)), y = view.py(Math.floor(chip / chipsAcross) * (chipHeight + chipGap));
      if (x > view.w || y > view.h || x + chipWidth * scale < 0 || y + chipHeight * scale < 0) continue;
      context.fillStyle = ground;
      context.fillRect(x, y, chipWidth * scale, chipHeight * scale);
      if (facts.chips > 1 && chipWidth * scale > 30) {
        context.strokeStyle = line;
        context.strokeRect(x, y, chipWidth * scale, chipHeight * scale);
      }
      const seen = visible(view, chip, scale);
      /* One colour after the other: to change it takes longer than to fill a box. */
      context.fillStyle = empty;
      for (const array of seen) {
        const [left, top] = boxOf(array);
        if (filled(array) < 0.999) context.fillRect(view.px(left), view.py(top), boxWidth * scale, boxHeight * scale);
      }
      if (boxWidth * scale > PLAIN_BELOW || colourBy === "use") for (const array of seen) drawArray(context, view, array, scale, ground);
      else drawPlain(context, view, seen, scale);
    }
    if (selected !== null) {
      const [x, y] = boxOf(selected);
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.strokeRect(view.px(x) - 1.5, view.py(y) - 1.5, boxWidth * scale + 3, boxHeight * scale + 3);
      context.lineWidth = 1;
    }
  }

  /* Arrays of a chip of which something can be seen. */
  function visible(view, chip, scale) {
    const found = [], w = boxWidth * scale, h = boxHeight * scale;
    for (let own = 0; own < perChip; own++) {
      const [x, y] = boxOf(chip * perChip + own), left = view.px(x), top = view.py(y);
      if (left < view.w && top < view.h && left + w > 0 && top + h > 0) found.push(chip * perChip + own);
    }
    return found;
  }

  const shares = new Map();
  function filled(array) {
    const key = segment * facts.arrays + array;
    if (!shares.has(key)) shares.set(key, use(array));
    return shares.get(key);
  }

  /* Boxes without anything in them, layer by layer. */
  function drawPlain(context, view, seen, scale) {
    const whole = boxWidth * scale < 7, boxes = facts.layers.map(() => []);
    for (const array of seen) {
      const tiles = mapping.tilesOf(segment, array);
      if (tiles.length === 0) continue;
      if (whole) boxes[tile.layer[largest(array, tiles)]].push(array);
      else for (const i of tiles) boxes[tile.layer[i]].push(i);
    }
    boxes.forEach((own, layer) => {
      context.fillStyle = faded(facts.layers[layer].colour, mapping.isDim(layer));
      for (const item of own) {
        const [x, y] = boxOf(whole ? item : tile.array[item]), left = view.px(x), top = view.py(y);
        if (whole) context.fillRect(left, top, Math.max(boxWidth * scale, 1), Math.max(boxHeight * scale, 1));
        else context.fillRect(...rectangle(item, left, top, scale));
      }
    });
  }

  const largestTiles = new Map();
  function largest(array, tiles) {
    const key = segment * facts.arrays + array;
    if (!largestTiles.has(key)) {
      let most = tiles[0];
      for (const i of tiles) if (width(i) * (tile.row_end[i] - tile.row_begin[i]) > width(most) * (tile.row_end[most] - tile.row_begin[most])) most = i;
      largestTiles.set(key, most);
    }
    return largestTiles.get(key);
  }

  function drawArray(context, view, array, scale, ground) {
    const [x, y] = boxOf(array), left = view.px(x), top = view.py(y);
    const w = boxWidth * scale, h = boxHeight * scale;
    const tiles = mapping.tilesOf(segment, array);
    if (tiles.length === 0) return;
    if (colourBy === "use") {
      context.fillStyle = ramp(filled(array));
      context.fillRect(left, top, w, h);
      return;
    }
    for (const here of placesOf(array)) {
      const dim = here.every((i) => mapping.isDim(tile.layer[i]));
      context.fillStyle = faded(facts.layers[tile.layer[here[0]]].colour, dim);
      context.fillRect(...rectangle(here[0], left, top, scale));
    }
    const image = w > 60 ? imageOf(array) : null;
    if (image) {
      context.imageSmoothingEnabled = scale < 1;
      context.drawImage(image, left, top, w, h);
      drawStuck(context, view, array, left, top, scale);
    }
    if (scale > 22 && image) { drawLevels(context, view, array, left, top, scale); return; }
    if (w > 40) for (const here of placesOf(array)) drawTile(context, here, left, top, scale, image !== null, ground);
  }

  function rectangle(i, left, top, scale) {
    return [
      left + tile.output_line[i] * facts.cells_per_crossing * scale, top + tile.input_line[i] * cellHeight * scale,
      width(i) * scale, (tile.row_end[i] - tile.row_begin[i]) * cellHeight * scale,
    ];
  }

  function drawTile(context, here, left, top, scale, onImage, ground) {
    const [x, y, w, h] = rectangle(here[0], left, top, scale), colour = facts.layers[tile.layer[here[0]]].colour;
    context.strokeStyle = onImage ? colour : ground;
    context.strokeRect(x + 0.5, y + 0.5, Math.max(w - 1, 1), Math.max(h - 1, 1));
    const text = labelOf(here);
    context.font = "600 12px system-ui, sans-serif";
    const room = context.measureText(text).width;
    if (w < room + 8 || h < 16) return;
    const cx = x + w / 2, cy = y + h / 2;
    if (onImage) {
      context.fillStyle = colour;
      context.fillRect(cx - room / 2 - 4, cy - 9, room + 8, 18);
    }
    context.fillStyle = inkOn(colour);
    context.textAlign = "center"; context.textBaseline = "middle";
    context.fillText(text, cx, cy + 0.5);
  }

  function drawStuck(context, view, array, left, top, scale) {
    const found = listed(array);
    if (!found.own) return;
    context.strokeStyle = page.colour("mark");
    context.lineWidth = 2;
    for (const [number, cell] of cellFacts.stuck) {
      if (number !== found.number) continue;
      const x = left + (cell % columns + 0.5) * scale, y = top + (Math.floor(cell / columns) + 0.5) * cellHeight * scale;
      context.beginPath();
      context.arc(x, y, Math.max(4, scale * 0.6), 0, 7);
      context.stroke();
    }
    context.lineWidth = 1;
  }

  function drawLevels(context, view, array, left, top, scale) {
    const base = listed(array).number * lines * columns;
    const firstColumn = Math.max(0, Math.floor(-left / scale)), lastColumn = Math.min(columns - 1, Math.floor((view.w - left) / scale));
    const high = cellHeight * scale;
    const firstLine = Math.max(0, Math.floor(-top / high)), lastLine = Math.min(lines - 1, Math.floor((view.h - top) / high));
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center"; context.textBaseline = "middle";
    context.strokeStyle = page.colour("line");
    for (let row = firstLine; row <= lastLine; row++) {
      for (let column = firstColumn; column <= lastColumn; column++) {
        const cell = base + row * columns + column;
        context.strokeRect(left + column * scale, top + row * high, scale, high);
        if (cells.weight[cell] === -2) continue;
        const share = cells.level[cell] / cellFacts.highest;
        context.fillStyle = cells.weight[cell] === -1 || share < 0.75 ? "#101418" : "#ffffff";
        const text = cells.weight[cell] === -1 ? "·" : cellFacts.continuous ? share.toFixed(1) : String(cells.level[cell]);
        context.fillText(text, left + (column + 0.5) * scale, top + (row + 0.5) * high);
      }
    }
  }

  /* ---- what is under the pointer ---- */

  function describe(x, y) {
    const array = arrayAt(x, y);
    if (array === null) { status.textContent = ""; return; }
    const words = [];
    if (facts.chips > 1) words.push(`chip ${Math.floor(array / perChip)}, array ${array % perChip}`); else words.push(`array ${array}`);
    const tiles = mapping.tilesOf(segment, array);
    if (tiles.length === 0) { status.textContent = words[0] + ": empty"; return; }
    words.push(`${(100 * use(array)).toFixed(1)} % of its cells used`);
    const kind = mapping.kindOf(segment, array);
    if (facts.kinds[kind][1] > 1) words.push(`${facts.kinds[kind][1]} arrays are alike`);
    const [left, top] = boxOf(array), column = Math.floor(x - left), row = Math.floor((y - top) / cellHeight);
    const under = placesOf(array).find(([i]) => row >= tile.input_line[i] && row < tile.input_line[i] + tile.row_end[i] - tile.row_begin[i]
      && column >= tile.output_line[i] * facts.cells_per_crossing && column < tile.output_line[i] * facts.cells_per_crossing + width(i));
    if (under === undefined) words.push("no tile here");
    else {
      if (under.length > 1) words.push(`${under.length} layers share its cells`);
      words.push(tileWords(under[0]), ...cellWords(under[0], array, row, column));
    }
    status.textContent = words.join("; ");
  }

  function tileWords(i) {
    return `${mapping.label(i)}, rows ${tile.row_begin[i]} to ${tile.row_end[i] - 1}, columns ${tile.column_begin[i]} to ${tile.column_end[i] - 1}`;
  }

  function cellWords(i, array, row, column) {
    const place = `${facts.input_line_name} ${row}, ${facts.output_line_name} ${Math.floor(column / facts.cells_per_crossing)}`;
    const found = listed(array);
    if (!found) return [place];
    const cell = found.number * lines * columns + row * columns + column, layer = facts.layers[tile.layer[i]];
    const own = column - tile.output_line[i] * facts.cells_per_crossing, pair = 2 * layer.slices;
    const slice = Math.floor((own % pair) / 2), sign = own % 2 ? "-" : "+";
    const level = cells.level[cell] * cellFacts.level_step, weight = cells.weight[cell];
    const words = [place];
    if (weight < 0) words.push("blank, holds no weight");
    else {
      const group = Math.floor(weight / (layer.rows * layer.columns)), rest = weight % (layer.rows * layer.columns);
      const signed = sign === "+" ? level - cells.level[cell + 1] * cellFacts.level_step : cells.level[cell - 1] * cellFacts.level_step - level;
      words.push(`weight: output channel ${group * layer.columns + rest % layer.columns}, kernel input ${Math.floor(rest / layer.columns)}`);
      words.push(`${layer.slices > 1 ? `slice ${slice}, ` : ""}cell ${sign} at level ${round(level)} of a pair that holds ${round(signed)}`);
    }
    const target = cellFacts.g_min_us + level * cellFacts.level_step_us;
    words.push(`target ${target.toFixed(2)} µS` + (found.own ? `, programmed ${(cells.conductance[cell] * cellFacts.conductance_step_us).toFixed(2)} µS` : ""));
    if (found.own && cells.stuck.has(cell)) words.push("stuck");
    return words;
  }

  function round(value) { return String(Math.round(1000 * value) / 1000); }

  /* ---- controls ---- */

  function select(array) {
    selected = array;
    if (array === null) return;
    const [x, y] = boxOf(array);
    view.show(x, y, boxWidth, boxHeight);
  }

  function pick(x, y) {
    const array = arrayAt(x, y);
    if (array === null) return;
    if (array === selected && boxWidth * view.sx > view.w / 2) closer(x, y); else select(array);
    describe(x, y);
  }

  /* Cells large enough for their levels. */
  function closer(x, y) {
    const scale = 30;
    view.show(x - view.w / scale / 2, y - view.h / scale / 2, view.w / scale, view.h / scale, scale);
  }

  const firstUsed = () => { for (let array = 0; array < facts.arrays; array++) if (mapping.kindOf(segment, array) >= 0) return array; return 0; };
  const actions = {
    system: () => { selected = null; view.fit(); },
    array: () => select(selected === null ? firstUsed() : selected),
    cell: () => {
      if (selected === null) selected = firstUsed();
      const [x, y] = boxOf(selected), i = mapping.tilesOf(segment, selected)[0];
      closer(x + tile.output_line[i] * facts.cells_per_crossing + view.w / 60, y + tile.input_line[i] * cellHeight + Math.min(view.h / 60, boxHeight / 2));
    },
    in: () => view.zoom(1.6),
    out: () => view.zoom(1 / 1.6),
  };
  const view = new View(canvas, { draw, square: true, height: (w) => Math.max(260, Math.min(520, w * worldHeight / worldWidth + 16)), pick, hover: describe });
  const chipRows = Math.ceil(facts.chips / chipsAcross);
  const worldWidth = chipsAcross * (chipWidth + chipGap) - chipGap, worldHeight = chipRows * (chipHeight + chipGap) - chipGap;
  view.world = [worldWidth, worldHeight];
  document.querySelectorAll("[data-plan]").forEach((button) => button.addEventListener("click", () => actions[button.dataset.plan]()));
  document.getElementById("plan-colour").addEventListener("change", (event) => { colourBy = event.target.value; view.paint(); });
  const segments = document.getElementById("plan-segment");
  if (segments) segments.addEventListener("change", () => { segment = Number(segments.value); fillKinds(); view.paint(); });
  mapping.onChange(() => view.paint());

  /* Kinds of arrays that hold the same, those of most arrays first. */
  const kindBox = document.getElementById("plan-kind");
  function fillKinds() {
    const own = facts.kinds.map(([place, count]) => ({ place, count })).filter(({ place }) => Math.floor(place / facts.arrays) === segment);
    own.sort((a, b) => b.count - a.count || a.place - b.place);
    kindBox.replaceChildren(new Option(`${own.length} kind${own.length === 1 ? "" : "s"}`, ""));
    for (const { place, count } of own.slice(0, 500)) {
      const array = place % facts.arrays;
      const names = [...new Set([...mapping.tilesOf(segment, array)].map((i) => facts.layers[tile.layer[i]].name))];
      kindBox.append(new Option(`${count} × ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", ..." : ""}`, String(array)));
    }
  }
  kindBox.addEventListener("change", () => { if (kindBox.value !== "") select(Number(kindBox.value)); });

  await mapping.ready();
  fillKinds();
  view.paint();
  await loadCells();
});
