// Draws the plots with Plotly in the page's colours when they come into view, and makes the page's controls work.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), drawn = new Set();
  const coarse = matchMedia("(pointer: coarse)").matches;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };

  // Numbers that were packed by figures.py; anything else is returned as it is.
  function unpack(packed) {
    if (packed && "count" in packed) return Int32Array.from({ length: packed.count }, (_, place) => packed.first + place);
    if (!packed || !packed.bdata) return packed;
    const flat = new ARRAYS[packed.dtype](Uint8Array.from(atob(packed.bdata), (letter) => letter.charCodeAt(0)).buffer);
    if (!packed.shape) return flat;
    const [rows, columns] = packed.shape.split(",").map(Number);
    return Array.from({ length: rows }, (_, row) => flat.subarray(row * columns, (row + 1) * columns));
  }

  // A picture of some of the heat map's rows, with gaps in the others: Plotly would stretch the cells over them.
  function spread(trace, names) {
    const columns = trace.z[0].length, rows = new Map(trace.y.map((name, row) => [name, trace.z[row]]));
    trace.z = names.map((name) => (rows.has(name) ? Array.from(rows.get(name)) : Array(columns).fill(null)));
    Object.assign(trace, { y: names, hoverongaps: false });
  }

  // The mean of each number and those around it; a gap stays a gap.
  function smooth(values, width) {
    const half = (width - 1) / 2;
    return values.map((value, place) => {
      if (Number.isNaN(value)) return NaN;
      const near = values.slice(Math.max(0, place - half), place + half + 1).filter((each) => !Number.isNaN(each));
      return near.reduce((sum, each) => sum + each, 0) / near.length;
    });
  }

  function between(data, trace) {
    const [baseline, candidate] = ["baseline", "candidate"].map((role) => data.find((each) => each.meta === role && !each.yaxis));
    const words = Array.from(candidate.y, (value, place) => {
      const apart = Math.abs(value - baseline.y[place]);
      if (Number.isNaN(apart)) return "not known";
      return apart === 0 ? "0, equal" : `${(apart / Math.abs(baseline.y[place])).toPrecision(3)} relative`;
    });
    Object.assign(trace, { x: candidate.x, y: candidate.y, text: words, mode: "markers", hovertemplate: "difference %{text}<extra></extra>" });
    trace.marker = { opacity: 0, color: colour("muted") };
  }

  // The colours of the heat map: from bytes to powers of ten, see heat_map.py. Equal cells, of 0, are below the scale.
  function farColours(trace, narrow) {
    const decade = (byte) => (byte - 1) / 16 - 12;
    trace.text = trace.z.map((row) => row.map((byte) => (byte ? `${(10 ** decade(byte)).toExponential(1)} apart` : "equal")));
    trace.z = trace.z.map((row) => row.map((byte) => (byte === null ? null : byte ? Math.max(decade(byte), -8) : -9)));
    Object.assign(trace, { zmin: -9, zmax: 0 });
    trace.colorscale = [[0, colour("cold")], [0.11, colour("cold")], [0.111, colour("near")], [0.45, colour("hot")], [0.75, colour("warm")], [1, colour("bad")]];
    trace.colorbar = {
      orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left", len: narrow ? 1 : 0.6, thickness: 10, outlinewidth: 0,
      tickvals: [-9, -8, -6, -4, -2, 0], ticktext: ["equal", narrow ? "" : "1e-8", "1e-6", "1e-4", "1 %", "100 %"], tickangle: 0, tickfont: { color: colour("muted"), size: narrow ? 9 : 11 },
    };
  }

  function dress(figure, canvas, narrow) {
    const { data, layout } = structuredClone(figure), view = canvas.view;
    for (const trace of data) for (const key of ["x", "y", "z", "customdata"]) if (trace[key]) trace[key] = unpack(trace[key]);
    const far = data.some((trace) => trace.meta === "far");
    for (const trace of data) {
      const role = trace.meta;
      if (role === "heat") {
        spread(trace, layout.yaxis.categoryarray);
        trace.text = trace.z.map((row) => row.map((share) => (share ? "differs" : "equal")));
        trace.colorscale = [[0, colour("cold")], [0.009, colour("cold")], [0.01, `${colour("noise")}33`], [1, `${colour("noise")}88`]];
      } else if (role === "far") {
        spread(trace, layout.yaxis.categoryarray);
        farColours(trace, narrow);
      } else if (role === "between") {
        between(data, trace);
      } else {
        const both = trace.mode === "lines" && data.some((each) => each.meta === "between") && !trace.yaxis;
        if (both && view.smooth > 1) trace.y = smooth(Array.from(trace.y), view.smooth);
        const tone = colour(role);
        const dashed = role === "line" || (both && role === "candidate");
        trace.line = { color: tone, width: both && role === "baseline" ? 3 : 1.6, dash: dashed ? "dash" : "solid", ...trace.line };
        if (both && role === "baseline") trace.opacity = 0.75;
        trace.marker = { size: 4, color: tone, line: { color: tone, width: 2 }, ...trace.marker };
        if (trace.fill) trace.fillcolor = `${tone}33`;
      }
    }
    if (view.log) Object.assign(layout.yaxis, { type: "log", exponentformat: "e" });
    for (const shape of layout.shapes || []) {
      shape.line = { color: colour(shape.name), width: 1, dash: { epoch: "dash", partial: "dot", beyond: "solid" }[shape.name] };
    }
    for (const each of layout.annotations || []) {
      each.font = { color: colour(each.name === "more than rounding" ? "beyond" : "first"), size: narrow ? 10 : 12 };
      if (narrow) each.text = each.text.replace(" difference, ", ": ").replace("more than rounding,", "> rounding:");
    }
    for (const [key, axis] of Object.entries(layout)) {
      if (/^[xy]axis/.test(key)) Object.assign(axis, { gridcolor: colour("grid"), linecolor: colour("rule"), zeroline: false, tickfont: { size: narrow ? 9 : 11 } });
    }
    const few = layout.showlegend === false ? 44 : 44 + 20 * (narrow ? Math.ceil(data.filter((each) => each.showlegend !== false).length / 2) : 1);
    return [data, {
      ...layout,
      font: { color: colour("muted"), family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("fg") } },
      margin: { l: narrow ? 44 : 60, r: 12, t: 28 + 16 * (layout.annotations || []).length, b: far ? 90 : few },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      dragmode: coarse ? false : "zoom",
      modebar: { color: colour("muted"), activecolor: colour("fg"), bgcolor: "rgba(0,0,0,0)", orientation: "h" },
    }];
  }

  // The range of the y axis that holds what is drawn between two steps; null where that is nothing, or no number axis.
  function fitting(canvas, [low, high]) {
    const log = canvas.layout.yaxis.type === "log";
    let least = Infinity, most = -Infinity;
    if (canvas.layout.yaxis.type === "category") return null;
    for (const trace of canvas.data) {
      if (trace.yaxis || trace.visible === "legendonly" || !trace.x || trace.hoverinfo === "skip") continue;
      trace.x.forEach((step, place) => {
        const value = trace.y[place];
        if ((step < low || step > high) && trace.meta !== "line") return;
        if (!Number.isFinite(value) || (log && value <= 0)) return;
        least = Math.min(least, value);
        most = Math.max(most, value);
      });
    }
    if (least > most) return null;
    const [bottom, top] = log ? [Math.log10(least), Math.log10(most)] : [least, most];
    const room = (top - bottom) * 0.06 || Math.abs(top) * 0.01 || 1;
    return [bottom - room, top + room];
  }

  // What a plot has to change to show some steps; all of them for null.
  function zoomed(canvas, pair) {
    const change = { "xaxis.range": [...pair.range] };
    const whole = figures[canvas.dataset.figure].layout.yaxis;
    const y = pair.all ? null : fitting(canvas, pair.range);
    if (y) Object.assign(change, { "yaxis.range": y, "yaxis.autorange": false, "yaxis.dtick": null });
    else if (canvas.layout.yaxis.type !== "category") {
      if (whole.range) Object.assign(change, { "yaxis.range": [...whole.range], "yaxis.dtick": whole.dtick });
      else change["yaxis.autorange"] = true;
    }
    return change;
  }

  function draw(canvas) {
    const figure = figures[canvas.dataset.figure], narrow = canvas.clientWidth < 480;
    const pair = canvas.closest(".pair");
    canvas.view ||= { log: false, smooth: 1 };
    const [data, layout] = dress(figure, canvas, narrow);
    const config = {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      showSendToCloud: false, plotlyServerURL: "", // by default Plotly.js 4 has a button that uploads the plot
    };
    const again = drawn.has(canvas);
    drawn.add(canvas);
    const box = canvas.closest("figure").querySelector("[data-log]");
    if (box) box.disabled = data.some((trace) => !trace.yaxis && trace.y && Array.from(trace.y).some((value) => value <= 0));
    const done = Promise.resolve(Plotly.react(canvas, data, layout, config)).then(() => {
      if (pair.range && !pair.all) return Plotly.relayout(canvas, zoomed(canvas, pair));
    });
    if (!again) {
      canvas.on("plotly_relayout", (change) => {
        if (pair.zooming) return;
        if (change["xaxis.autorange"]) zoom(pair, null);
        // A box that the reader drew has its own height.
        else if ("xaxis.range[0]" in change) zoom(pair, [change["xaxis.range[0]"], change["xaxis.range[1]"]], "yaxis.range[0]" in change ? canvas : null);
      });
    }
    return done;
  }

  function zoom(pair, range, source) {
    const first = Number(pair.dataset.first), last = first + Number(pair.dataset.steps) - 1;
    pair.all = range === null;
    pair.range = pair.all ? [first - 0.5, last + 0.5] : [Math.max(first - 0.5, range[0]), Math.min(last + 0.5, range[1])];
    pair.querySelector("output").textContent =
      `steps ${Math.max(first, Math.ceil(pair.range[0]))} to ${Math.min(last, Math.floor(pair.range[1]))}`;
    pair.zooming = true;
    const others = all(".canvas", pair).filter((each) => drawn.has(each) && each !== source);
    Promise.all(others.map((each) => Plotly.relayout(each, zoomed(each, pair)))).finally(() => { pair.zooming = false; });
  }

  for (const button of all("[data-zoom]")) {
    button.addEventListener("click", () => {
      const pair = button.closest(".pair"), step = Number(button.dataset.zoom);
      const around = Math.max(5, Math.min(20, Math.round(Number(pair.dataset.steps) / 10)));
      zoom(pair, button.dataset.zoom === "all" ? null : [step - around - 0.5, step + around + 0.5]);
    });
  }

  for (const figure of all("figure.plot")) {
    const canvas = figure.querySelector(".canvas");
    figure.addEventListener("change", (event) => {
      const control = event.target;
      canvas.view ||= { log: false, smooth: 1 };
      if ("choice" in control.dataset) {
        canvas.dataset.figure = control.value;
        for (const caption of all("figcaption", figure)) {
          caption.hidden = caption.dataset.of !== control.value;
          if (!caption.hidden) {
            canvas.style.height = `${caption.dataset.height}px`;
            canvas.setAttribute("aria-label", `${control.selectedOptions[0].textContent}. ${caption.textContent}`);
          }
        }
      } else if ("log" in control.dataset) canvas.view.log = control.checked;
      else canvas.view.smooth = Number(control.value);
      draw(canvas);
    });
  }

  const canvases = all(".canvas");
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
  }, { rootMargin: "600px" });
  canvases.forEach((canvas) => near.observe(canvas));

  // A link to something folded opens it.
  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const inside = target.matches(".pair") ? target.querySelector("details") : null;
    for (let each = inside || target.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
    if (target.closest("[hidden]")) filter(false);
    target.scrollIntoView();
  }
  addEventListener("hashchange", reveal);

  const button = document.getElementById("filter");
  const passing = all("[data-passing]");
  function filter(on) {
    button.setAttribute("aria-pressed", String(on));
    passing.forEach((each) => { each.hidden = on; });
  }
  button.hidden = !passing.length || passing.length === all(".pair, #other-pairs").length;
  button.addEventListener("click", () => filter(button.getAttribute("aria-pressed") !== "true"));
  addEventListener("keydown", (event) => {
    if (event.key !== "f" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (!button.hidden) button.click();
  });

  async function copy(text, source) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = source.textContent;
    source.textContent = "Copied";
    setTimeout(() => { source.textContent = before; }, 1500);
  }
  for (const pre of all("pre.command")) {
    const made = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
    made.setAttribute("aria-label", "Copy the command");
    made.addEventListener("click", () => copy(pre.textContent.trim(), made));
    pre.after(made);
  }
  const whole = document.querySelector('[data-copies="markdown"]');
  whole.hidden = !document.getElementById("markdown");
  whole.addEventListener("click", () => copy(read("markdown"), whole));

  // Tables that are wider than the page say so.
  const measure = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("wide", target.scrollWidth > target.clientWidth + 1);
  });
  all(".scroll").forEach((each) => measure.observe(each));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  let opened = [];
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    opened = all("details:not([open])");
    opened.forEach((each) => { each.open = true; });
    canvases.forEach(draw);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    opened.forEach((each) => { each.open = false; });
    drawn.forEach(draw);
  });
  reveal();
})();
