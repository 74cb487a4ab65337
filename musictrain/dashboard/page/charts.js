// The charts: curves out of the data, drawn by plotly, all with one horizontal range. Only what changed and is in sight is drawn.
"use strict";

(function (M) {
  const PALETTE = {
    light: ["#3d73bd", "#cc5a1c", "#4d8f6b", "#8a5aa8", "#b58a1d", "#2a8f9c", "#b04a6d", "#6b7480", "#a8a49a"],
    dark: ["#7aacee", "#f0975f", "#82c7a0", "#bd95d8", "#e0bd5f", "#6cc5d0", "#e58caa", "#9aa3af", "#6d6a64"],
  };
  // Parts of a whole lie on one another: what training is for in blues, what holds it up in warmer tones.
  const LAYERS = {
    light: ["#7ea6d9", "#4f7fc0", "#2f5a96", "#d9772f", "#e3b04b", "#8fbf9f", "#b58fc4", "#b9b4a8", "#dedad1"],
    dark: ["#86aee0", "#5c8bcb", "#3d659f", "#e08a4c", "#d9b25e", "#7fb493", "#a887b8", "#77736b", "#45443f"],
  };
  const FEW_POINTS = 45; // up to so many, each point gets a dot
  const FIRST_CHARTS = 12;
  const NEAR = "400px";

  const view = { axis: "step", logY: false, smoothing: 0, range: null, marked: null };
  const curves = new Map(); // by key
  const charts = new Map(); // by section and name
  const shownCharts = new Map(); // by section: how many
  const zoomListeners = [];
  let axes = { tokens: null, time: null, text: "" };
  let marks = { versions: [], alerts: [], best: {}, text: "" };
  let bands = new Map();
  let changes = 0;
  let pending = false;

  // ---- data

  function decoded(told) {
    let step = 0;
    return {
      steps: told.steps ? told.steps.split(",").map((difference) => (step += Number(difference))) : [],
      values: told.values ? told.values.split(",").map(Number) : [],
    };
  }

  function takeCurve(told) {
    const known = curves.get(told.key);
    if (known && known.told.steps === told.steps && known.told.values === told.values) return;
    const curve = { told, ...decoded(told), change: ++changes, rows: told.rows, low: null, high: null };
    curve.values.forEach((value, place) => {
      if (!Number.isFinite(value)) return;
      if (curve.low === null || value < curve.values[curve.low]) curve.low = place;
      if (curve.high === null || value >= curve.values[curve.high]) curve.high = place;
    });
    curves.set(told.key, curve);
  }

  function takeAxes(told) {
    const text = JSON.stringify(told);
    if (text === axes.text) return;
    axes = { tokens: decoded(told.tokens || {}), time: decoded(told.seconds || {}), text, change: ++changes };
  }

  function takeMarks(data) {
    const versions = (data.versions || []).filter((version) => M.isNumber(version.step));
    const alerts = (data.alerts || []).filter((alert) => M.isNumber(alert.step));
    const best = data.best || {};
    const text = JSON.stringify([versions.map((version) => version.name), alerts.map((alert) => [alert.step, alert.level]), best, data.bands]);
    if (text === marks.text) return;
    marks = { versions, alerts, best, text, change: ++changes };
    bands = new Map((data.bands || []).map(([key, low, high]) => [key, [low, high]]));
  }

  // ---- the horizontal axis

  // Straight lines between points; beyond the ends on along the nearest stretch.
  function along(from, to, value) {
    const last = from.length - 1;
    if (last < 0) return value;
    if (last === 0) return from[0] ? (value / from[0]) * to[0] : value;
    let low = 0;
    let high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= value) low = middle;
      else high = middle;
    }
    const width = from[high] - from[low];
    return width ? to[low] + ((to[high] - to[low]) * (value - from[low])) / width : to[low];
  }

  function axisTable() {
    return view.axis === "tokens" ? axes.tokens : view.axis === "time" ? axes.time : null;
  }

  function secondsPerUnit() {
    const most = axes.time && axes.time.values.length ? axes.time.values[axes.time.values.length - 1] : 0;
    return most < 180 ? [1, "seconds of training"] : most < 7200 ? [60, "minutes of training"] : [3600, "hours of training"];
  }

  function xOfStep(step) {
    const table = axisTable();
    if (!table || !table.steps.length) return step;
    const there = step <= 0 ? 0 : Math.max(0, along(table.steps, table.values, step));
    return view.axis === "time" ? there / secondsPerUnit()[0] : there;
  }

  function stepOfX(x) {
    const table = axisTable();
    if (!table || !table.steps.length) return x;
    return along(table.values, table.steps, view.axis === "time" ? x * secondsPerUnit()[0] : x);
  }

  function axisTitle() {
    if (view.axis === "tokens" && axes.tokens && axes.tokens.steps.length) return "tokens read";
    if (view.axis === "time" && axes.time && axes.time.steps.length) return secondsPerUnit()[1];
    return "optimizer steps";
  }

  function hoverTitle() {
    const title = axisTitle();
    if (title === "optimizer steps") return "step %{x:,.0f}";
    return title === "tokens read" ? "%{x:,.0f} tokens" : `%{x:.1f} ${title.split(" ")[0]}`;
  }

  // From 0, or from the first step of a run that began late, to a little beyond the last: rounded, so that it seldom moves.
  function fullRange() {
    let first = Infinity;
    let last = 0;
    for (const curve of curves.values()) {
      if (!curve.steps.length) continue;
      first = Math.min(first, curve.steps[0]);
      last = Math.max(last, curve.steps[curve.steps.length - 1]);
    }
    if (!Number.isFinite(first)) return [0, 1];
    const grain = Math.max(1, 10 ** Math.floor(Math.log10(Math.max(last, 1))) / 20);
    const from = first > 0.5 * last ? Math.floor((first - 1) / grain) * grain : 0;
    return [Math.max(0, from), Math.max(Math.ceil(last / grain) * grain, from + 1)];
  }

  const stepRange = () => view.range || fullRange();

  // ---- smoothing

  // How far smoothing looks to either side, in steps; the same for every curve, however often it was recorded.
  function smoothingSteps() {
    const [first, last] = fullRange();
    return view.smoothing ** 2 * 0.08 * (last - first);
  }

  // Weighted straight lines around each point: nothing is delayed, and the steep beginning of a loss is not bent. Gaps stay gaps.
  function smoothed(steps, values, width) {
    let first = 0;
    return values.map((value, place) => {
      if (value === null) return null;
      const here = steps[place];
      while (steps[first] < here - 3 * width) first += 1;
      let [weights, x1, x2, y1, xy] = [0, 0, 0, 0, 0];
      for (let other = first; other < steps.length && steps[other] <= here + 3 * width; other += 1) {
        if (values[other] === null) continue;
        const x = (steps[other] - here) / width;
        const weight = Math.exp(-0.5 * x * x);
        weights += weight;
        x1 += weight * x;
        x2 += weight * x * x;
        y1 += weight * values[other];
        xy += weight * x * values[other];
      }
      const spread = weights * x2 - x1 * x1;
      return spread > 1e-9 * weights * weights ? (x2 * y1 - x1 * xy) / spread : y1 / weights;
    });
  }

  // Ticks of a logarithmic axis that are read as they are written: 0.5, not a small 5.
  function logTicks([low, high]) {
    const every = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const digit of high - low > 2.5 ? [1] : high - low > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]) every.push(Number((digit * 10 ** power).toPrecision(6)));
    }
    const seen = every.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
    const step = Math.ceil(seen.length / 8);
    const kept = seen.filter((_, place) => place % step === 0);
    return { tickmode: "array", tickvals: kept, ticktext: kept.map((value) => M.number(value, 3)) };
  }

  // ---- one chart

  class Chart {
    constructor(spec, section) {
      this.section = section;
      this.drawn = "";
      this.inSight = false;
      this.title = M.element("h3");
      this.legend = M.element("ul", { class: "legend" });
      this.plot = M.element("div", { class: "plot", role: "group", "aria-roledescription": "chart", "aria-keyshortcuts": "+ - ArrowLeft ArrowRight Escape", tabindex: "0", "data-draws": "0" });
      this.node = M.element("article", { class: "chart card" }, M.element("header", {}, this.title, this.legend), this.plot);
      this.plot.addEventListener("keydown", (event) => this.steer(event));
      this.take(spec);
    }

    take(spec) {
      this.spec = spec;
      this.curves = spec.curves.map(([key, label]) => ({ key, label, curve: curves.get(key) })).filter((each) => each.curve);
      this.node.classList.toggle("tall", spec.section === "learning" && spec.name === "loss");
      this.node.classList.toggle("broad", spec.kind === "stack" || (spec.section === "learning" && spec.name === "loss"));
      M.setText(this.title, spec.title);
      this.colours = this.colourNames();
      this.tell();
    }

    colourNames() {
      let next = 0;
      return this.curves.map(({ label }) => {
        if (this.spec.kind !== "stack" && this.curves.length <= 3) {
          if (label === "validation" || label === "test") return "validation";
          if (label === "train") return "train";
        }
        return next++;
      });
    }

    colour(place) {
      const name = this.colours[place];
      if (typeof name === "string") return M.colour(name);
      const palette = (this.spec.kind === "stack" ? LAYERS : PALETTE)[M.theme() === "dark" ? "dark" : "light"];
      return palette[name % palette.length];
    }

    value(number) {
      return this.spec.unit === "share" ? M.percent(number, number < 0.1 ? 1 : 0) : M.number(number) + (this.spec.unit ? ` ${this.spec.unit}` : "");
    }

    // The legend with the last values, and the same in a sentence for those who do not see the chart.
    tell() {
      const many = this.curves.length > 9;
      const rows = many ? this.curves.slice(0, 8) : this.curves;
      const text = rows.map(({ label, curve }) => `${label} ${curve.values[curve.values.length - 1]}`).join() + M.theme() + JSON.stringify(this.band()) + many;
      if (text === this.told) return;
      this.told = text;
      const alone = this.curves.length === 1;
      this.legend.replaceChildren(
        ...rows.map(({ label, curve }, place) => {
          const item = M.element(
            "li",
            { class: this.spec.kind === "stack" ? "block" : null },
            M.element("i"),
            alone && label.toLowerCase() === this.spec.title.toLowerCase() ? null : M.element("span", { class: "name", text: label }),
            M.element("b", { text: this.value(curve.values[curve.values.length - 1]) }),
          );
          item.style.setProperty("--swatch", this.colour(place));
          return item;
        }),
        ...(many ? [M.element("li", { text: `and ${this.curves.length - 8} more` })] : []),
        ...this.bandLegend(),
      );
      const words = rows.map(({ label, curve }) => `${label}: last ${M.number(curve.values[curve.values.length - 1])} at step ${M.count(curve.steps[curve.steps.length - 1])}` + (curve.low === null ? "" : `, lowest ${M.number(curve.values[curve.low])} at step ${M.count(curve.steps[curve.low])}, highest ${M.number(curve.values[curve.high])}`));
      this.plot.setAttribute("aria-label", `${this.spec.title}. ${words.join(". ")}.`);
    }

    band() {
      for (const { key } of this.curves) if (bands.has(key)) return [key, ...bands.get(key)];
      return null;
    }

    bandLegend() {
      const band = this.band();
      if (!band) return [];
      const item = M.element("li", { class: "block band" }, M.element("i"), `corpus 10–90 %: ${M.number(band[1], 3)} to ${M.number(band[2], 3)}`);
      item.style.setProperty("--swatch", M.colour("band"));
      const relation = this.relation();
      return [item, ...(relation ? [M.element("li", { class: "only-read-aloud", text: relation })] : [])];
    }

    relation() {
      const band = this.band();
      if (!band) return "";
      const curve = curves.get(band[0]);
      const last = curve.values[curve.values.length - 1];
      if (!Number.isFinite(last)) return "";
      return last < band[1] ? "below the corpus" : last > band[2] ? "above the corpus" : "as in the corpus";
    }

    signature() {
      const own = this.curves.map(({ curve, label }) => `${curve.change}${label}`).join();
      const axis = view.axis === "step" ? "" : axes.change;
      return [own, view.axis, axis, view.logY, view.smoothing, stepRange(), view.marked, M.theme(), marks.change, this.spec.kind].join("|");
    }

    draw() {
      const signature = this.signature();
      if (signature === this.drawn) return;
      if (!window.Plotly) {
        this.drawWithoutPlotly();
        return;
      }
      this.drawn = signature;
      const range = this.horizontalRange();
      const traces = this.traces();
      const layout = this.layout(range, this.verticalRange(traces, range));
      const coarse = window.matchMedia("(pointer: coarse)").matches;
      layout.dragmode = coarse ? false : "zoom";
      layout.xaxis.fixedrange = coarse;
      if (this.plot.querySelector(".no-plotly")) this.plot.replaceChildren();
      window.Plotly.react(this.plot, [...traces, ...this.markTraces()], layout, { displayModeBar: false, responsive: true, showTips: false, doubleClick: false });
      this.plot.dataset.draws = String(Number(this.plot.dataset.draws) + 1);
      if (!this.listens) {
        this.listens = true;
        this.plot.on("plotly_relayout", (event) => this.zoomed(event));
        this.plot.on("plotly_doubleclick", () => M.plot.reset());
      }
    }

    // Everything has a little air at both ends, so that a mark at the very first step is seen.
    horizontalRange() {
      const [from, to] = stepRange().map(xOfStep);
      const air = view.range ? 0 : 0.01 * (to - from);
      return [from - air, to + air];
    }

    zoomed(event) {
      const from = event["xaxis.range[0]"] ?? (event["xaxis.range"] || [])[0];
      const to = event["xaxis.range[1]"] ?? (event["xaxis.range"] || [])[1];
      if (event["xaxis.autorange"]) M.plot.reset();
      else if (from !== undefined && to !== undefined) setRange([stepOfX(Number(from)), stepOfX(Number(to))]);
    }

    steer(event) {
      const [from, to] = stepRange();
      const width = to - from;
      const moves = {
        ArrowLeft: [from - 0.1 * width, to - 0.1 * width],
        ArrowRight: [from + 0.1 * width, to + 0.1 * width],
        "+": [from + 0.15 * width, to - 0.15 * width],
        "=": [from + 0.15 * width, to - 0.15 * width],
        "-": [from - 0.2 * width, to + 0.2 * width],
      };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") M.plot.reset();
      else if (moves[event.key]) setRange(moves[event.key]);
      else return;
      event.preventDefault();
    }

    ys(curve) {
      const log = this.usesLog();
      return curve.values.map((value) => (Number.isFinite(value) && (!log || value > 0) ? value : null));
    }

    usesLog() {
      return view.logY && this.spec.section === "learning" && this.spec.kind !== "stack";
    }

    traces() {
      const made = [];
      this.curves.forEach(({ curve, label }, place) => {
        const x = curve.steps.map(xOfStep);
        const y = this.ys(curve);
        const colour = this.colour(place);
        const base = { type: "scatter", x, y, name: plain(label), line: { color: colour, width: 1.8 }, hovertemplate: `%{y:${this.spec.unit === "share" ? ".1~%" : ".5~g"}}` };
        if (this.spec.kind === "stack") {
          made.push({ ...base, mode: "lines", stackgroup: "one", line: { color: colour, width: 0 }, fillcolor: colour });
          return;
        }
        const few = y.filter((value) => value !== null).length <= FEW_POINTS;
        if (view.smoothing > 0 && y.length > 2 && this.spec.name !== "learning rate") {
          made.push({ ...base, mode: "lines", hoverinfo: "skip", hovertemplate: undefined, opacity: 0.28, line: { color: colour, width: 1 }, faint: true });
          made.push({ ...base, y: this.smooth(curve, y), mode: "lines", line: { color: colour, width: 2.2 } });
        } else {
          made.push({ ...base, mode: few ? "lines+markers" : "lines", marker: { size: 4.5, color: colour } });
        }
      });
      return made;
    }

    // Of a logarithmic axis in logarithms: what is seen as a straight line is smoothed as one.
    smooth(curve, y) {
      const log = this.usesLog();
      const values = log ? y.map((value) => (value === null ? null : Math.log(value))) : y;
      const made = smoothed(curve.steps, values, Math.max(smoothingSteps(), 1e-9));
      return log ? made.map((value) => (value === null ? null : Math.exp(value))) : made;
    }

    // What can be seen, with a little air; values far out of a smoothed curve do not squeeze it.
    verticalRange(traces, [from, to]) {
      if (this.spec.kind === "stack") return [0, 1];
      const seen = [];
      for (const trace of traces) {
        const values = trace.y.filter((value, place) => value !== null && trace.x[place] >= from && trace.x[place] <= to);
        if (trace.faint && values.length > 50) {
          values.sort((one, other) => one - other);
          seen.push(values[Math.floor(0.01 * values.length)], values[Math.ceil(0.99 * values.length) - 1]);
        } else if (values.length) {
          seen.push(values.reduce((one, other) => Math.min(one, other)), values.reduce((one, other) => Math.max(one, other)));
        }
      }
      const band = this.band();
      if (band) seen.push(band[1], band[2]);
      if (!seen.length) return null;
      let low = Math.min(...seen);
      let high = Math.max(...seen);
      if (this.usesLog()) [low, high] = [Math.log10(low), Math.log10(high)];
      const air = high > low ? 0.07 * (high - low) : Math.max(Math.abs(high) * 0.05, 1e-9);
      const fromZero = !this.usesLog() && low >= 0 && low < 0.35 * high && !band;
      return [fromZero ? 0 : low - air, high + air];
    }

    // Versions stand at the foot of a chart, alerts and values that are no numbers hang from its top.
    markTraces() {
      const upper = { type: "scatter", mode: "markers", yaxis: "y2", cliponaxis: false, showlegend: false };
      const made = [];
      const versions = marks.versions.slice(-200);
      if (versions.length) {
        made.push({ ...upper, name: "version", x: versions.map((version) => xOfStep(version.step)), y: versions.map(() => 0.018), text: versions.map((version) => version.name + (version.removed ? ", removed since" : "")), hovertemplate: "%{text}<extra>version</extra>", marker: { symbol: "triangle-up", size: 7, color: M.colour("faint") } });
      }
      const alerts = marks.alerts.slice(0, 200);
      if (alerts.length) {
        made.push({ ...upper, name: "alert", x: alerts.map((alert) => xOfStep(alert.step)), y: alerts.map(() => 0.982), text: alerts.map((alert) => plain(String(alert.message || alert.kind).slice(0, 90))), hovertemplate: "%{text}<extra>alert</extra>", marker: { symbol: "triangle-down", size: 8, color: alerts.map((alert) => M.colour(alert.level === "WARNING" ? "warn" : "bad")) } });
      }
      const broken = this.curves.flatMap(({ curve, label }) => curve.steps.filter((_, place) => !Number.isFinite(curve.values[place])).slice(0, 100).map((step) => [step, label]));
      if (broken.length) {
        made.push({ ...upper, name: "no number", x: broken.map(([step]) => xOfStep(step)), y: broken.map(() => 0.94), text: broken.map(([, label]) => `${plain(label)} is no finite number`), hovertemplate: "%{text}<extra></extra>", marker: { symbol: "x", size: 7, color: M.colour("bad") } });
      }
      return made;
    }

    shapes() {
      const made = [];
      const band = this.band();
      if (band) made.push({ type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: band[1], y1: band[2], fillcolor: M.colour("band"), opacity: 0.14, line: { width: 0 }, layer: "below" });
      const line = { type: "line", yref: "paper", y0: 0, y1: 1, layer: "below" };
      if (view.marked !== null) made.push({ ...line, x0: xOfStep(view.marked), x1: xOfStep(view.marked), line: { color: M.colour("bad"), width: 1.4, dash: "dot" } });
      return made;
    }

    annotations() {
      const made = [];
      const small = { showarrow: false, font: { size: 11, color: M.colour("quiet") } };
      if (view.marked !== null) made.push({ ...small, text: `step ${M.count(view.marked)}`, x: xOfStep(view.marked), yref: "paper", y: 1, yanchor: "top", xanchor: "left", xshift: 4, font: { size: 11, color: M.colour("bad") } });
      return made;
    }

    layout(range, vertical) {
      const quiet = M.colour("quiet");
      const line = M.colour("line");
      const family = getComputedStyle(document.body).fontFamily;
      const axis = { zeroline: false, gridcolor: line, linecolor: line, tickfont: { size: 11, color: quiet }, automargin: false };
      return {
        uirevision: "stay",
        autosize: true,
        margin: { l: 54, r: 14, t: 8, b: 38 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family, size: 12, color: quiet },
        showlegend: false,
        hovermode: "x unified",
        hoverdistance: 30,
        hoverlabel: { bgcolor: M.colour("card"), bordercolor: line, font: { family, size: 12, color: M.colour("ink") } },
        xaxis: { ...axis, range, showgrid: false, showline: true, ticks: "outside", ticklen: 4, tickcolor: line, nticks: 7, hoverformat: view.axis === "time" ? ".1f" : ",.0f", showspikes: true, spikemode: "across", spikesnap: "data", spikethickness: 1, spikedash: "solid", spikecolor: M.colour("faint"), unifiedhovertitle: { text: hoverTitle() }, tickformat: view.axis === "tokens" ? "~s" : view.axis === "step" && range[1] < 100000 ? "," : "~s", title: { text: axisTitle(), standoff: 4, font: { size: 11, color: quiet } } },
        yaxis: { ...axis, type: this.usesLog() ? "log" : "linear", ...(vertical ? { range: vertical } : {}), fixedrange: true, nticks: 6, ...(this.spec.unit === "share" ? { tickformat: ".2~%" } : this.usesLog() && vertical ? logTicks(vertical) : tickFormat(vertical)) },
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
        shapes: this.shapes(),
        annotations: this.annotations(),
      };
    }

    // The shape of the curves and the numbers in words: what can be had without plotly.
    drawWithoutPlotly() {
      this.drawn = this.signature();
      const range = this.horizontalRange();
      const traces = this.traces();
      const vertical = this.verticalRange(traces, range) || [0, 1];
      const shape = document.createElementNS(SVG, "svg");
      for (const [name, value] of Object.entries({ viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" })) shape.setAttribute(name, value);
      for (const trace of this.spec.kind === "stack" ? [] : traces) shape.append(outline(trace, range, vertical, this.usesLog()));
      const text = this.plot.getAttribute("aria-label").replace(`${this.spec.title}. `, "");
      this.plot.replaceChildren(M.element("div", { class: "no-plotly" }, shape, M.element("p", { text })));
    }
  }

  const SVG = "http://www.w3.org/2000/svg";

  function outline(trace, [from, to], [low, high], log) {
    const path = document.createElementNS(SVG, "path");
    let draws = false;
    const steps = trace.x.map((x, place) => {
      const y = trace.y[place];
      if (y === null) return (draws = false) || "";
      const command = draws ? "L" : "M";
      draws = true;
      return `${command}${((1000 * (x - from)) / (to - from)).toFixed(1)} ${(100 - (100 * ((log ? Math.log10(y) : y) - low)) / (high - low)).toFixed(2)}`;
    });
    path.setAttribute("d", steps.join(""));
    path.setAttribute("stroke", trace.line.color);
    path.setAttribute("opacity", trace.opacity || 1);
    return path;
  }

  function tickFormat(vertical) {
    const most = vertical ? Math.max(Math.abs(vertical[0]), Math.abs(vertical[1])) : 0;
    return most >= 10000 ? { tickformat: "~s" } : most < 0.01 && most > 0 ? { tickformat: "~g", exponentformat: "e" } : { tickformat: ",~g" };
  }

  // Plotly reads a little HTML in texts; names are to stay what they are.
  function plain(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  // ---- all charts

  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const chart = [...charts.values()].find((each) => each.node === entry.target);
        if (chart) chart.inSight = entry.isIntersecting;
      }
      schedule();
    },
    { rootMargin: NEAR },
  );

  function schedule() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(drawNext);
  }

  // One chart a frame: the page answers to the hand in between.
  function drawNext() {
    pending = false;
    for (const chart of charts.values()) {
      if (!chart.inSight || chart.signature() === chart.drawn) continue;
      chart.draw();
      schedule();
      return;
    }
  }

  function setRange(range) {
    const [first, last] = fullRange();
    let [from, to] = range;
    const width = Math.min(Math.max(to - from, Math.min(2, last - first)), last - first);
    from = Math.min(Math.max(from, first), last - width);
    to = from + width;
    view.range = width >= 0.999 * (last - first) ? null : [from, to];
    changed();
  }

  function changed() {
    for (const listener of zoomListeners) listener(view.range);
    schedule();
  }

  function showSection(section, specs) {
    const host = M.byId(`charts-${section}`);
    const most = shownCharts.get(section) || FIRST_CHARTS;
    const wanted = specs.slice(0, most);
    const nodes = wanted.map((spec) => {
      const id = `${section} ${spec.name}`;
      let chart = charts.get(id);
      if (chart) chart.take(spec);
      else {
        chart = new Chart(spec, section);
        charts.set(id, chart);
        observer.observe(chart.node);
      }
      return chart.node;
    });
    const narrow = nodes.filter((node) => !node.classList.contains("broad"));
    narrow.forEach((node, place) => node.classList.toggle("alone", narrow.length % 2 === 1 && place === narrow.length - 1));
    if (specs.length > most) nodes.push(moreCharts(section, specs, most));
    if (nodes.length !== host.children.length || nodes.some((node, place) => host.children[place] !== node)) host.replaceChildren(...nodes);
    M.byId(`empty-${section}`).hidden = specs.length > 0;
  }

  const moreButtons = new Map();

  function moreCharts(section, specs, most) {
    let button = moreButtons.get(section);
    if (!button) {
      button = M.element("button", { class: "button more-charts", type: "button" });
      moreButtons.set(section, button);
    }
    M.setText(button, `Show ${Math.min(24, specs.length - most)} more of ${specs.length - most}`);
    button.onclick = () => {
      shownCharts.set(section, most + 24);
      showSection(section, specs);
      schedule();
    };
    return button;
  }

  M.plot = {
    // New data: takes it in and draws again what it changed.
    take(data) {
      for (const curve of data.curves || []) takeCurve(curve);
      takeAxes(data.axes || {});
      takeMarks(data);
      for (const section of ["learning", "music", "machine"]) showSection(section, (data.charts || []).filter((chart) => chart.section === section));
      schedule();
    },
    // To a step in every chart, in its surroundings.
    jump(step) {
      const [first, last] = fullRange();
      const width = Math.max(0.2 * (last - first), 10);
      view.marked = step;
      setRange([step - width / 2, step + width / 2]);
    },
    reset() {
      view.range = null;
      view.marked = null;
      changed();
    },
    set(options) {
      Object.assign(view, options);
      changed();
    },
    has: (axis) => axis === "step" || Boolean(axes[axis] && axes[axis].steps.length),
    smoothingSteps,
    curve: (key) => curves.get(key),
    onZoom: (listener) => zoomListeners.push(listener),
    // Plotly has come.
    redraw() {
      for (const chart of charts.values()) chart.drawn = "";
      schedule();
    },
    view,
  };

  M.onTheme(() => {
    for (const chart of charts.values()) chart.tell();
    schedule();
  });
})(window.musictrain);
