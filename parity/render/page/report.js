// Draws the figures with Plotly in the page's colours when they come into view, and keeps the plots of a pair at one zoom.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const drawn = new Set();
  const coarse = matchMedia("(pointer: coarse)").matches;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // A picture of some of the heat map's rows, with gaps in the others: Plotly would stretch the cells over them.
  function spread(trace, names) {
    const columns = Number(trace.z.shape.split(",")[1]), bytes = atob(trace.z.bdata);
    trace.z = names.map((name) => {
      const row = trace.y.indexOf(name);
      return Array.from({ length: columns }, (_, column) => (row < 0 ? null : bytes.charCodeAt(row * columns + column)));
    });
    Object.assign(trace, { y: names, hoverongaps: false });
  }

  function dress(figure, narrow) {
    const { data, layout } = structuredClone(figure);
    const far = data.some((trace) => trace.meta === "far");
    for (const trace of data) {
      const role = trace.meta;
      if (role === "heat") {
        spread(trace, layout.yaxis.categoryarray);
        const tone = colour(far ? "noise" : "hot");
        trace.colorscale = [[0, colour("cold")], [0.009, colour("cold")], [0.01, tone + (far ? "55" : "99")], [1, tone + (far ? "99" : "")]];
      } else if (role === "far") {
        spread(trace, layout.yaxis.categoryarray);
        // From bytes to powers of ten, see heat_map.py. Equal cells, of 0, have a number below the scale.
        const decade = (byte) => (byte - 1) / 16 - 12;
        trace.text = trace.z.map((row) => row.map((byte) => (byte ? `${(10 ** decade(byte)).toExponential(1)} apart` : "equal")));
        trace.z = trace.z.map((row) => row.map((byte) => (byte === null ? null : byte ? Math.max(decade(byte), -8) : -9)));
        trace.zmin = -9;
        trace.zmax = 0;
        trace.colorscale = [[0, colour("cold")], [0.11, colour("cold")], [0.111, colour("near")], [0.55, colour("hot")], [1, colour("bad")]];
        trace.colorbar = {
          orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left", len: narrow ? 1 : 0.5, thickness: 8, outlinewidth: 0,
          tickvals: [-9, -8, -6, -4, -2, 0], ticktext: ["equal", "1e-8", "1e-6", "1e-4", "0.01", "1"], tickfont: { color: colour("muted"), size: narrow ? 9 : 11 },
        };
      }
      else if (role === "devices") {
        const scale = [colour("bg"), colour("good"), colour("doubt"), colour("param"), colour("bad")];
        trace.colorscale = scale.flatMap((each, n) => [[n / 5, each], [(n + 1) / 5, each]]);
        trace.zmin = -0.5;
        trace.zmax = 4.5;
      } else {
        const tone = role === "names" ? colour("bg") : colour(role);
        trace.line = { color: tone, width: role === "line" ? 2 : 1.5, dash: role === "line" ? "dash" : "solid", ...trace.line };
        trace.marker = { size: 4, color: tone, line: { color: tone, width: 2 }, ...trace.marker };
        if (trace.fill) trace.fillcolor = `${tone}33`;
      }
    }
    for (const shape of layout.shapes || []) {
      shape.line = { color: colour(shape.name), width: 1, dash: { epoch: "dash", partial: "dot", beyond: "solid" }[shape.name] };
    }
    for (const each of layout.annotations || []) each.font = { color: colour(each.name.endsWith("beyond rounding") ? "beyond" : "first"), size: 12 };
    for (const [key, axis] of Object.entries(layout)) {
      if (/^[xy]axis/.test(key)) Object.assign(axis, { gridcolor: colour("grid"), linecolor: colour("rule"), zeroline: false, tickfont: { size: narrow ? 9 : 11 } });
    }
    return [data, {
      ...layout,
      font: { color: colour("muted"), family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("fg") } },
      margin: { l: narrow ? 44 : 60, r: 10, t: 28 + 16 * (layout.annotations || []).length, b: far ? 84 : layout.showlegend === false ? 40 : 64 },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      dragmode: coarse ? false : "zoom",
      modebar: { color: colour("muted"), activecolor: colour("fg"), bgcolor: "rgba(0,0,0,0)", orientation: "h" },
    }];
  }

  function draw(canvas) {
    const figure = figures[canvas.dataset.figure];
    const [data, layout] = dress(figure, canvas.clientWidth < 480);
    const pair = canvas.closest(".pair");
    if (pair && pair.range) layout.xaxis.range = [...pair.range];
    const config = {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      showSendToCloud: false, plotlyServerURL: "", // by default Plotly.js 4 has a button that uploads the plot
    };
    const again = drawn.has(canvas);
    drawn.add(canvas);
    Plotly.react(canvas, data, layout, config);
    if (again || !pair) return;
    canvas.on("plotly_relayout", (change) => {
      if (pair.zooming) return;
      if (change["xaxis.autorange"]) zoom(pair, null, canvas);
      else if ("xaxis.range[0]" in change) zoom(pair, [change["xaxis.range[0]"], change["xaxis.range[1]"]], canvas);
    });
  }

  function zoom(pair, range, source) {
    const first = Number(pair.dataset.first), last = first + Number(pair.dataset.steps) - 1;
    pair.range = range || [first - 0.5, last + 0.5];
    pair.querySelector("output").textContent =
      `steps ${Math.max(first, Math.ceil(pair.range[0]))} to ${Math.min(last, Math.floor(pair.range[1]))}`;
    pair.zooming = true;
    const others = [...pair.querySelectorAll(".canvas")].filter((each) => drawn.has(each) && (range === null || each !== source));
    Promise.all(others.map((each) => Plotly.relayout(each, { "xaxis.range": [...pair.range] }))).finally(() => { pair.zooming = false; });
  }

  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      const pair = button.closest(".pair"), step = Number(button.dataset.zoom);
      const around = Math.max(5, Math.min(20, Number(pair.dataset.steps) / 10));
      zoom(pair, button.dataset.zoom === "all" ? null : [step - around, step + around]);
    });
  }

  const canvases = [...document.querySelectorAll(".canvas")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "600px" });
  canvases.forEach((canvas) => near.observe(canvas));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  let opened = [];
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => { each.open = true; });
    canvases.forEach(draw);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    opened.forEach((each) => { each.open = false; });
    drawn.forEach(draw);
  });
})();
