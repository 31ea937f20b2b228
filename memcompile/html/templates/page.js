"use strict";
/* What every page can do: data, charts, light and dark, navigation, search, keyboard. */
const page = (() => {
  const root = document.documentElement;
  const starters = [];
  const painters = [];

  function data(name) {
    const element = document.getElementById("data-" + name);
    return element === null ? null : JSON.parse(element.textContent);
  }

  async function unpacked(name) {
    const element = document.getElementById("packed-" + name);
    if (element === null) return null;
    const letters = atob(element.textContent.trim()), packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
    element.remove();
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function colour(name) {
    return getComputedStyle(root).getPropertyValue("--" + name).trim();
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  /* ---- charts ---- */

  function themed(layout) {
    const ink = colour("ink"), line = colour("line");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true };
    const axes = {};
    for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d+$/.test(key))]) {
      axes[name] = { ...axis, ...(layout[name] || {}) };
    }
    return {
      margin: { l: 56, r: 16, t: 8, b: 44 }, hovermode: "closest", autosize: true, ...layout, ...axes,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, ...(layout.legend || {}) },
    };
  }

  function inked(traces) {
    /* Colours of text and outlines in traces that stand for those of the page. */
    return JSON.parse(JSON.stringify(traces).replace(/"var\(--(\w+)\)"/g, (_, name) => JSON.stringify(colour(name))));
  }

  const figures = [...document.querySelectorAll("figure.chart")].map((figure) => ({
    plot: figure.querySelector(".plot"),
    ...JSON.parse(figure.querySelector("script").textContent),
  }));

  /* With a width for paper, which is narrower than most windows. */
  function drawChart(figure, width) {
    const layout = { ...themed(inked(figure.layout)), ...(width ? { width, autosize: false } : {}) };
    Plotly.react(figure.plot, inked(figure.data), layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  async function loadCharts() {
    if (figures.length === 0 || !document.getElementById("packed-library") || !window.DecompressionStream) return;
    for (const figure of figures) figure.plot.classList.add("waiting");
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpacked("library"));
    document.head.append(script);
    for (const figure of figures) {
      drawChart(figure, 0);
      await new Promise((resolve) => setTimeout(resolve));
    }
    painters.push((width) => figures.forEach((figure) => drawChart(figure, width)));
  }

  /* ---- light and dark ---- */

  function repaint(width = 0) { for (const paint of painters) paint(width); }

  function switchTheme() {
    root.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  }

  /* ---- navigation and keyboard ---- */

  const sections = [...document.querySelectorAll("main section[id]")].filter((section) => section.querySelector("h2"));

  function navigate() {
    const navigation = document.getElementById("navigation");
    const links = sections.map((section) => {
      const link = document.createElement("a");
      link.href = "#" + section.id;
      link.textContent = section.dataset.short || section.querySelector("h2").textContent;
      navigation.append(link);
      return link;
    });
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => link.removeAttribute("aria-current"));
        const link = links[sections.indexOf(entry.target)];
        link.setAttribute("aria-current", "true");
        navigation.scrollTo({ left: link.offsetLeft - navigation.offsetLeft - 40 });
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    sections.forEach((section) => seen.observe(section));
  }

  function move(step) {
    const here = sections.filter((section) => section.getBoundingClientRect().top < 90).length - 1;
    const there = sections[Math.min(Math.max(here + step, 0), sections.length - 1)];
    if (there) there.scrollIntoView();
  }

  const searched = [];

  function search(words) {
    const wanted = words.trim().toLowerCase();
    for (const row of document.querySelectorAll("[data-name]")) {
      row.classList.toggle("dim", wanted !== "" && !row.dataset.name.toLowerCase().includes(wanted));
    }
    for (const found of searched) found(wanted);
  }

  function listen() {
    document.getElementById("theme").addEventListener("click", switchTheme);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());
    const box = document.getElementById("search");
    if (box) {
      box.addEventListener("input", () => search(box.value));
      box.addEventListener("keydown", (event) => {
        if (event.key === "Escape") { box.value = ""; search(""); box.blur(); }
        if (event.key === "Enter") {
          const row = document.querySelector("[data-name]:not(.dim)");
          if (row) row.scrollIntoView({ block: "center" });
        }
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
      if (event.key === "/" && box) { box.focus(); event.preventDefault(); }
      if (event.key === "t") switchTheme();
      if (event.key === "j") move(1);
      if (event.key === "k") move(-1);
    });
    /* Paper is light, and shows everything. */
    let before = null;
    window.addEventListener("beforeprint", () => {
      before = root.dataset.theme;
      root.dataset.theme = "light";
      document.querySelectorAll("details").forEach((element) => { element.open = true; });
      repaint(640);
    });
    window.addEventListener("afterprint", () => {
      if (before === undefined) delete root.dataset.theme; else root.dataset.theme = before;
      repaint();
    });
  }

  function start() {
    navigate();
    listen();
    /* Words and tables are painted before anything is unpacked, and canvases before charts. */
    requestAnimationFrame(() => setTimeout(async () => {
      for (const starting of starters.map(async (starter) => starter())) await starting.catch((error) => console.error(error));
      await loadCharts().finally(() => { root.dataset.ready = "true"; });
    }));
  }

  return {
    data, unpacked, colour, isDark, start,
    onStart: (starter) => starters.push(starter),
    onTheme: (painter) => painters.push(painter),
    onSearch: (found) => searched.push(found),
  };
})();
