// One chart: a title, a legend with the last values, and the curves, drawn by plotly, or in outline where that is missing.
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
  const OPTIONS = { displayModeBar: false, responsive: true, showTips: false, doubleClick: false };
  const KEYS = "+ - ArrowLeft ArrowRight Escape";
  const SVG = "http://www.w3.org/2000/svg";
  const FEW_POINTS = 45; // up to so many, each point gets a dot
  const MOST_NAMES = 9;
  const MOST_MARKS = 200;

  const { curves } = M;
  const { view, xOfStep } = curves;

  // Plotly reads a little HTML in texts; names are to stay what they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const last = (list) => list[list.length - 1];

  class Chart {
    // `steered` is called when the reader asked for another range, `reset` when for all of it.
    constructor(spec, steered, reset) {
      Object.assign(this, { steered, reset, drawn: "", inSight: false });
      this.title = M.element("h3");
      this.legend = M.element("ul", { class: "legend" });
      const spoken = { role: "group", "aria-roledescription": "chart", "aria-keyshortcuts": KEYS };
      this.plot = M.element("div", { class: "plot", tabindex: "0", "data-draws": "0", ...spoken });
      this.about = M.element("p", { class: "about" });
      this.node = M.element("article", { class: "chart card" }, M.element("header", {}, this.title, this.legend), this.about, this.plot);
      this.plot.addEventListener("keydown", (event) => this.steer(event));
      this.take(spec);
    }

    take(spec) {
      this.spec = spec;
      this.lines = spec.curves.map(([key, label]) => ({ key, label, curve: curves.get(key) })).filter((each) => each.curve);
      const isLoss = spec.section === "learning" && spec.name === "loss";
      this.node.classList.toggle("tall", isLoss);
      this.node.classList.toggle("broad", isLoss || this.isStack());
      M.setText(this.title, spec.title);
      M.setText(this.about, spec.about || "");
      this.about.hidden = !spec.about;
      this.nameColours();
      this.tell();
    }

    isStack() {
      return this.spec.kind === "stack";
    }

    usesLog() {
      return view.logY && this.spec.section === "learning" && !this.isStack();
    }

    isShare() {
      return this.spec.unit === "share";
    }

    // ---- colours and words

    nameColours() {
      let next = 0;
      this.colours = this.lines.map(({ label }) => {
        const known = !this.isStack() && this.lines.length <= 3 && { train: "train", validation: "validation", test: "validation" }[label];
        return known || next++;
      });
    }

    colour(place) {
      const name = this.colours[place];
      if (typeof name === "string") return M.colour(name);
      const palette = (this.isStack() ? LAYERS : PALETTE)[M.theme() === "dark" ? "dark" : "light"];
      return palette[name % palette.length];
    }

    words(value) {
      if (this.isShare()) return M.percent(value, value < 0.1 ? 1 : 0);
      return M.number(value) + (this.spec.unit ? ` ${this.spec.unit}` : "");
    }

    // The legend with the last values, and the same in a sentence for those who do not see the chart.
    tell() {
      const shown = this.lines.slice(0, this.lines.length > MOST_NAMES ? MOST_NAMES - 1 : MOST_NAMES);
      const text = JSON.stringify([shown.map(({ label, curve }) => [label, curve.change]), this.lines.length, M.theme(), this.band()]);
      if (text === this.told) return;
      this.told = text;
      const items = shown.map((line, place) => this.legendItem(line, place));
      if (shown.length < this.lines.length) items.push(M.element("li", { text: `and ${this.lines.length - shown.length} more` }));
      this.legend.replaceChildren(...items, ...this.bandItems());
      this.plot.setAttribute("aria-label", `${this.spec.title}. ${shown.map(sentence).join(". ")}.`);
    }

    legendItem({ label, curve }, place) {
      const needsName = this.lines.length > 1 || label.toLowerCase() !== this.spec.title.toLowerCase();
      const name = needsName ? M.element("span", { class: "name", text: label }) : null;
      const value = M.element("b", { text: this.words(last(curve.values)) });
      const item = M.element("li", { class: this.isStack() ? "block" : null }, M.element("i"), name, value);
      item.style.setProperty("--swatch", this.colour(place));
      return item;
    }

    // Where the middle four fifths of the corpus lie, if that is known for one of the curves: [key, low, high].
    band() {
      const line = this.lines.find(({ key }) => curves.band(key));
      return line ? [line.key, ...curves.band(line.key)] : null;
    }

    bandItems() {
      const band = this.band();
      if (!band) return [];
      const words = `${this.spec.band || "corpus 10–90 %"}: ${M.number(band[1], 3)} to ${M.number(band[2], 3)}`;
      const item = M.element("li", { class: "block band" }, M.element("i"), words);
      item.style.setProperty("--swatch", M.colour("band"));
      const value = last(curves.get(band[0]).values);
      const relation = value < band[1] ? "below the corpus" : value > band[2] ? "above the corpus" : "as in the corpus";
      return Number.isFinite(value) ? [item, M.element("li", { class: "only-read-aloud", text: relation })] : [item];
    }

    // ---- drawing

    signature() {
      const own = this.lines.map(({ curve, label }) => `${curve.change}${label}`);
      return JSON.stringify([own, curves.state(), M.theme(), this.spec.kind]);
    }

    draw() {
      const signature = this.signature();
      if (signature === this.drawn) return;
      this.drawn = signature;
      const traces = this.traces();
      const range = this.horizontalRange();
      const vertical = this.verticalRange(traces, range);
      if (window.Plotly) this.drawWithPlotly(traces, range, vertical);
      else this.drawOutline(traces, range, vertical);
      this.plot.dataset.draws = String(Number(this.plot.dataset.draws) + 1);
    }

    drawWithPlotly(traces, range, vertical) {
      if (this.plot.querySelector(".no-plotly")) this.plot.replaceChildren();
      window.Plotly.react(this.plot, [...traces, ...this.markTraces()], this.layout(range, vertical), OPTIONS);
      if (this.listens) return;
      this.listens = true;
      this.plot.on("plotly_relayout", (event) => this.zoomed(event));
      this.plot.on("plotly_doubleclick", () => this.reset());
    }

    zoomed(event) {
      const [from, to] = event["xaxis.range"] || [event["xaxis.range[0]"], event["xaxis.range[1]"]];
      if (from !== undefined && to !== undefined) this.steered([from, to].map(Number).map(curves.stepOfX));
    }

    steer(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const [from, to] = curves.stepRange();
      const width = to - from;
      const moves = { ArrowLeft: [-0.1, -0.1], ArrowRight: [0.1, 0.1], "+": [0.15, -0.15], "=": [0.15, -0.15], "-": [-0.2, 0.2] };
      const move = moves[event.key];
      if (event.key === "Escape") this.reset();
      else if (move) this.steered([from + move[0] * width, to + move[1] * width]);
      else return;
      event.preventDefault();
    }

    // Everything has a little air at both ends, so that a mark at the very first step is seen.
    horizontalRange() {
      const [from, to] = curves.stepRange().map(xOfStep);
      const air = view.range ? 0 : 0.01 * (to - from);
      return [from - air, to + air];
    }

    // What can be seen, with a little air; values far out of a smoothed curve do not squeeze it.
    verticalRange(traces, [from, to]) {
      if (this.isStack()) return [0, 1];
      const seen = this.band() ? this.band().slice(1) : [];
      for (const trace of traces) {
        const values = trace.y.filter((value, place) => value !== null && trace.x[place] >= from && trace.x[place] <= to);
        values.sort((one, other) => one - other);
        const beyond = trace.faint && values.length > 50 ? Math.floor(0.01 * values.length) : 0;
        if (values.length) seen.push(values[beyond], values[values.length - 1 - beyond]);
      }
      if (!seen.length) return null;
      if (seen.every((value) => value === 0)) return [-0.007, 0.1]; // nothing yet of what is hoped to stay nothing
      const log = this.usesLog();
      const [low, high] = [Math.min(...seen), Math.max(...seen)].map((value) => (log ? Math.log10(value) : value));
      const air = high > low ? 0.07 * (high - low) : Math.max(Math.abs(high) * 0.05, 1e-9);
      const fromZero = !log && low >= 0 && low < 0.35 * high && !this.band();
      return [fromZero ? 0 : low - air, high + air];
    }

    traces() {
      const log = this.usesLog();
      return this.lines.flatMap(({ curve, label }, place) => {
        const y = curve.values.map((value) => (Number.isFinite(value) && (!log || value > 0) ? value : null));
        const hovertemplate = this.isShare() ? "%{y:.1~%}" : "%{y:.5~g}";
        const base = { type: "scatter", mode: "lines", x: curve.steps.map(xOfStep), y, name: plain(label), hovertemplate };
        return this.isStack() ? layer(base, this.colour(place)) : this.lineTraces(base, curve, this.colour(place));
      });
    }

    lineTraces(base, curve, color) {
      if (view.smoothing > 0 && base.y.length > 2 && this.spec.name !== "learning rate") {
        const raw = { ...base, hoverinfo: "skip", hovertemplate: undefined, opacity: 0.28, line: { color, width: 1 }, faint: true };
        return [raw, { ...base, y: this.smooth(curve, base.y), line: { color, width: 2.2 } }];
      }
      const few = base.y.filter((value) => value !== null).length <= FEW_POINTS;
      return [{ ...base, mode: few ? "lines+markers" : "lines", line: { color, width: 1.8 }, marker: { size: 4.5, color } }];
    }

    // On a logarithmic axis in logarithms: what is seen as a straight line is smoothed as one.
    smooth(curve, y) {
      if (!this.usesLog()) return curves.smoothed(curve.steps, y);
      const logs = y.map((value) => (value === null ? null : Math.log(value)));
      return curves.smoothed(curve.steps, logs).map((value) => (value === null ? null : Math.exp(value)));
    }

    // Versions stand at the foot of a chart, vetoed steps above them; alerts, what was done about them, and values that are no numbers,
    // hang from its top.
    markTraces() {
      const { versions, alerts, vetoed, actions } = curves.marks();
      const fate = ({ vetoed, removed }) => (vetoed ? `, never best: ${vetoed}` : "") + (removed ? ", removed since" : "");
      const feet = versions.slice(-MOST_MARKS).map((version) => [version.step, version.name + fate(version)]);
      const crosses = vetoed.slice(-MOST_MARKS).map(([step, why]) => [step, `never best: ${why}`]);
      const tops = alerts.slice(0, MOST_MARKS).map((alert) => [alert.step, String(alert.message || alert.kind).slice(0, 90), alert.level]);
      const colours = tops.map(([, , level]) => M.colour(level === "WARNING" ? "warn" : "bad"));
      const done = actions.slice(-MOST_MARKS).map((action) => [action.step, action.text]);
      const holes = this.lines.flatMap(({ curve, label }) => {
        const steps = curve.steps.filter((_, place) => !Number.isFinite(curve.values[place]));
        return steps.slice(0, MOST_MARKS).map((step) => [step, `${label} is no finite number`]);
      });
      return [
        ...markTrace("version", feet, 0.018, { symbol: "triangle-up", size: 7, color: M.colour("faint") }),
        ...markTrace("vetoed", crosses, 0.07, { symbol: "x-thin-open", size: 7, color: M.colour("warn"), line: { width: 2 } }),
        ...markTrace("alert", tops, 0.982, { symbol: "triangle-down", size: 8, color: colours }),
        ...markTrace("action", done, 0.96, { symbol: "diamond", size: 7, color: M.colour("accent") }),
        ...markTrace("no number", holes, 0.94, { symbol: "x", size: 7, color: M.colour("bad") }),
      ];
    }

    layout(range, vertical) {
      const { fontFamily: family } = getComputedStyle(document.body);
      const coarse = window.matchMedia("(pointer: coarse)").matches; // a finger scrolls the page
      const clear = "rgba(0,0,0,0)";
      return {
        uirevision: "stay",
        autosize: true,
        margin: { l: 54, r: 14, t: 8, b: 38 },
        paper_bgcolor: clear,
        plot_bgcolor: clear,
        font: { family, size: 12, color: M.colour("quiet") },
        showlegend: false,
        dragmode: coarse ? false : "zoom",
        hovermode: "x unified",
        hoverdistance: 30,
        hoverlabel: { bgcolor: M.colour("card"), bordercolor: M.colour("line"), font: { family, size: 12, color: M.colour("ink") } },
        xaxis: { ...this.axis(), ...this.horizontalAxis(range), fixedrange: coarse },
        yaxis: { ...this.axis(), ...this.verticalAxis(vertical), fixedrange: true },
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
        shapes: this.shapes(),
        annotations: this.annotations(),
      };
    }

    axis() {
      const line = M.colour("line");
      return { zeroline: false, gridcolor: line, linecolor: line, tickcolor: line, tickfont: { size: 11, color: M.colour("quiet") } };
    }

    horizontalAxis(range) {
      const spike = { showspikes: true, spikemode: "across", spikesnap: "data", spikethickness: 1, spikedash: "solid" };
      const short = view.axis === "tokens" || (view.axis === "step" && range[1] >= 100000);
      return {
        range,
        showgrid: false,
        showline: true,
        ticks: "outside",
        ticklen: 4,
        nticks: 7,
        tickformat: short ? "~s" : ",~g",
        unifiedhovertitle: { text: curves.hoverTitle() },
        title: { text: curves.axisTitle(), standoff: 4, font: { size: 11, color: M.colour("quiet") } },
        ...spike,
        spikecolor: M.colour("faint"),
      };
    }

    verticalAxis(range) {
      const log = this.usesLog();
      const ticks = this.isShare() ? { tickformat: ".2~%" } : log && range ? curves.logTicks(range) : curves.plainTicks(range);
      return { type: log ? "log" : "linear", nticks: 6, ...(range ? { range } : {}), ...ticks };
    }

    shapes() {
      const made = [];
      const band = this.band();
      if (band) {
        const place = { type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: band[1], y1: band[2], layer: "below" };
        made.push({ ...place, fillcolor: M.colour("band"), opacity: 0.14, line: { width: 0 } });
      }
      if (view.marked !== null) {
        const x = xOfStep(view.marked);
        const line = { color: M.colour("bad"), width: 1.4, dash: "dot" };
        made.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: x, x1: x, layer: "below", line });
      }
      return made;
    }

    annotations() {
      if (view.marked === null) return [];
      const place = { x: xOfStep(view.marked), yref: "paper", y: 1, yanchor: "top", xanchor: "left", xshift: 4 };
      return [{ ...place, showarrow: false, text: `step ${M.count(view.marked)}`, font: { size: 11, color: M.colour("bad") } }];
    }

    // The shape of the curves and the numbers in words: what can be had without plotly.
    drawOutline(traces, range, vertical) {
      const shape = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
      const drawn = this.isStack() || !vertical ? [] : traces;
      shape.append(...drawn.map((trace) => outline(trace, range, vertical, this.usesLog())));
      const text = this.plot.getAttribute("aria-label").replace(`${this.spec.title}. `, "");
      this.plot.replaceChildren(M.element("div", { class: "no-plotly" }, shape, M.element("p", { text })));
    }
  }

  function sentence({ label, curve }) {
    const at = (place) => `${M.number(curve.values[place])} at step ${M.count(curve.steps[place])}`;
    const extremes = curve.low === null ? "" : `, lowest ${at(curve.low)}, highest ${at(curve.high)}`;
    return `${label}: last ${at(curve.values.length - 1)}${extremes}`;
  }

  function layer(base, color) {
    return [{ ...base, stackgroup: "one", line: { color, width: 0 }, fillcolor: color }];
  }

  function markTrace(name, points, height, marker) {
    if (!points.length) return [];
    const place = { x: points.map(([step]) => xOfStep(step)), y: points.map(() => height), yaxis: "y2", cliponaxis: false };
    const hover = { text: points.map(([, text]) => plain(text)), hovertemplate: `%{text}<extra>${name}</extra>` };
    return [{ type: "scatter", mode: "markers", name, showlegend: false, ...place, ...hover, marker }];
  }

  function svg(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function outline(trace, [from, to], [low, high], log) {
    let draws = false;
    const moves = trace.y.map((y, place) => {
      const command = draws ? "L" : "M";
      draws = y !== null;
      if (!draws) return "";
      const height = ((log ? Math.log10(y) : y) - low) / (high - low);
      return `${command}${((1000 * (trace.x[place] - from)) / (to - from)).toFixed(1)} ${(100 - 100 * height).toFixed(2)}`;
    });
    return svg("path", { d: moves.join(""), stroke: trace.line.color, opacity: trace.opacity || 1 });
  }

  M.Chart = Chart;
})(window.musictrain);
