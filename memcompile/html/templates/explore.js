"use strict";
/* The front of any two or three quantities, drawn anew for each choice. */
page.onStart(() => {
  const facts = page.data("facts");
  const plot = document.getElementById("front-plot"), status = document.getElementById("front-status");
  const choices = ["across", "up", "third"].map((id) => document.getElementById(id));
  const quantities = new Map(facts.quantities.map((one) => [one.name, one]));
  if (quantities.size < 2) { choices.forEach((choice) => { choice.parentElement.hidden = true; }); return; }

  const usual = facts.compared.filter((name) => quantities.has(name));
  const others = [...quantities.keys()].filter((name) => !usual.includes(name));
  const [up, across, third] = [...usual, ...others];
  choices.forEach((choice, place) => {
    for (const name of [...(place === 2 ? [""] : []), ...quantities.keys()]) {
      choice.append(new Option(name === "" ? "none" : name, name));
    }
    choice.value = [across, up, usual.length > 2 ? third : ""][place];
    choice.addEventListener("change", draw);
  });

  function plain(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }

  function title(one) { return one.unit === "" ? one.name : one.name + ", " + one.unit; }

  /* Rows from the cheapest on: one stays if none that stays costs no more and comes within the resolution. */
  function frontOf(rows, names) {
    const sign = (name) => (quantities.get(name).more ? -1 : 1);
    const costs = names.filter((name) => name !== "accuracy");
    const cost = (row) => costs.map((name) => sign(name) * row.figures[name]);
    const accuracy = (row) => (names.includes("accuracy") ? row.figures.accuracy : 0);
    const slack = names.includes("accuracy") ? facts.resolution : 0;
    const sorted = [...rows].sort((one, other) => {
      const a = cost(one), b = cost(other);
      for (let place = 0; place < a.length; place += 1) if (a[place] !== b[place]) return a[place] - b[place];
      return accuracy(other) - accuracy(one);
    });
    const front = [];
    for (const row of sorted) {
      const own = cost(row);
      const rivals = front.filter((kept) => cost(kept).every((value, place) => value <= own[place]));
      if (rivals.every((kept) => accuracy(row) > accuracy(kept) + slack)) front.push(row);
    }
    return front;
  }

  /* Energies of a grid span decades. */
  function scale(name, rows) {
    const values = rows.map((row) => row.figures[name]), least = Math.min(...values);
    return name !== "accuracy" && least > 0 && Math.max(...values) > 20 * least ? { type: "log", dtick: 1 } : {};
  }

  function words(row) {
    const chosen = Object.entries(row.values).map(([name, value]) => name + " = " + value);
    const figures = Object.entries(row.figures).map(([name, value]) => name + " " + (value === null ? "n/a" : value.toPrecision(4)));
    return plain([...chosen, ...figures].join("\n")).replace(/\n/g, "<br>");
  }

  function draw() {
    if (!window.Plotly) return;
    plot.classList.add("waiting"); // an empty plot takes no room, and is measured before it is filled
    const names = [...new Set(choices.map((choice) => choice.value).filter((name) => name !== ""))];
    const [x, y] = choices.map((choice) => choice.value), z = choices[2].value;
    const usable = facts.rows.filter((row) => !row.excluded && names.every((name) => row.figures[name] !== null));
    const complete = usable.filter((row) => row.complete || !names.includes("accuracy"));
    const front = frontOf(complete, names), on = new Set(front.map((row) => row.point));
    const rest = usable.filter((row) => !on.has(row.point));
    const trace = (rows, name, marker, more) => ({
      type: "scatter", mode: "markers", name, x: rows.map((row) => row.figures[x]), y: rows.map((row) => row.figures[y]),
      text: rows.map(words), hovertemplate: "%{text}<extra></extra>", marker, ...more,
    });
    const colours = z === "" ? { color: "#d55e00" } : {
      color: front.map((row) => row.figures[z]), colorscale: "Viridis", showscale: true,
      colorbar: { title: { text: title(quantities.get(z)) }, thickness: 12 },
    };
    const joined = z === "" ? { mode: "lines+markers", line: { shape: "hv", width: 1, color: "#d55e00" } } : {};
    const ordered = [...front].sort((one, other) => one.figures[x] - other.figures[x]);
    if (z !== "") colours.color = ordered.map((row) => row.figures[z]);
    const line = page.colour("line"), axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    Plotly.react(plot, [
      trace(rest.filter((row) => !row.complete), "predicted, or some chips", { color: "#8a949e", opacity: .35, symbol: "circle-open" }, {}),
      trace(rest.filter((row) => row.complete), "dominated", { color: "#56b4e9", opacity: .4 }, {}),
      trace(ordered, "front", { size: 10, ...colours }, joined),
    ], {
      autosize: true, margin: { l: 60, r: 16, t: 8, b: 48 }, hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: page.colour("ink"), size: 13 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: { ...axis, ...scale(x, usable), title: { text: title(quantities.get(x)) } },
      yaxis: { ...axis, ...scale(y, usable), title: { text: title(quantities.get(y)) }, tickformat: y === "accuracy" ? ".1%" : "" },
    }, { responsive: true, displaylogo: false, displayModeBar: false });
    status.textContent = front.length + " of " + usable.length + " designs are on the front of " + names.join(", ") + ".";
  }

  /* The library is there once the page says that it is ready. */
  new MutationObserver(() => { if (document.documentElement.dataset.ready) draw(); })
    .observe(document.documentElement, { attributes: true, attributeFilter: ["data-ready"] });
  page.onTheme(draw);
});
