// Parallel coordinates: a line a run, through its settings to its result. Drawn on a canvas of our own: plotly's needs eval and WebGL.
"use strict";

(function (M) {
  const HEIGHT = 300;
  const TOP = 50;
  const BOTTOM = 18;
  const SIDE = 76;
  const LEAST_GAP = 132;
  const MOST_AXES = 7;
  const LOG_FROM = 50; // a range that spans so much is drawn by its logarithm
  const GONE = 18; // where runs without the value pass, below the axis
  const AT_THE_END = 0.02; // so near to an end of an axis, the end is meant
  const CLASS_PATH = /^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$/;
  const SCALES = {
    light: ["#2b3f9e", "#1f7fb8", "#23a487", "#8dbf3f", "#e3a32c"],
    dark: ["#6f86ff", "#4fb3ea", "#52d3a8", "#b7de6b", "#ffd166"],
  };
  const view = { metric: "", part: "min", axes: null };
  const ranges = new Map(); // axis key: [low, high] as shares of the axis
  let axes = [];
  let runs = [];
  let changed = () => {};
  let signature = "";
  let dragging = false;

  // ---- axes

  function lastParts(key) {
    const parts = key.split(".").filter((part) => part !== "init_args");
    return { name: parts[parts.length - 1], under: parts.slice(0, -1).slice(-2).join(".") };
  }

  function numberAxis(key, name, under, values, wantsLog) {
    const known = values.filter(M.isNumber);
    const low = known.reduce((one, other) => Math.min(one, other), Infinity);
    const high = known.reduce((one, other) => Math.max(one, other), -Infinity);
    const log = low > 0 && (wantsLog || high / low >= LOG_FROM);
    const bend = (value) => (log ? Math.log(value) : value);
    const width = bend(high) - bend(low);
    const share = (value) => (!M.isNumber(value) ? null : width > 0 ? (bend(value) - bend(low)) / width : 0.5);
    const back = (part) => (log ? Math.exp(bend(low) + part * width) : low + part * width);
    const few = [...new Set(known)].sort((one, other) => one - other);
    const ticks = !known.length ? [] : few.length <= 5 ? few.map((value) => [share(value), M.number(value, 3)]) : [0, 0.25, 0.5, 0.75, 1].map((part) => [part, M.number(back(part), 3)]);
    return { key, name, under, values, share, ticks, low, high };
  }

  function kindAxis(setting, name, under) {
    const last = Math.max(setting.kinds.length - 1, 1);
    const share = (value) => (value === null ? null : value / last);
    return { key: setting.key, name, under, values: setting.values, share, ticks: setting.kinds.map((kind, place) => [place / last, CLASS_PATH.test(kind) ? kind.split(".").pop() : kind]) };
  }

  function makeAxes(data) {
    const wanted = view.axes || new Set(data.settings.slice(0, MOST_AXES).map((setting) => setting.key));
    const made = data.settings
      .filter((setting) => wanted.has(setting.key))
      .map((setting) => {
        const { name, under } = lastParts(setting.key);
        return setting.kinds ? kindAxis(setting, name, under) : numberAxis(setting.key, name, under, setting.values, setting.log);
      });
    const metric = data.metrics.find((each) => each.key === view.metric);
    const part = { min: "lowest", max: "highest", last: "last" }[view.part] || view.part;
    if (metric) made.push({ ...numberAxis(`result ${metric.key}`, metric.key, part, metric[view.part]), result: true });
    return made;
  }

  // ---- which runs pass

  M.inRanges = function (run) {
    for (const axis of axes) {
      const range = ranges.get(axis.key);
      if (!range) continue;
      const share = axis.share(axis.values[run.index]);
      if (share === null || share < range[0] - 1e-9 || share > range[1] + 1e-9) return false;
    }
    return true;
  };
  M.hasRanges = () => axes.some((axis) => ranges.has(axis.key));
  M.clearRanges = function () {
    ranges.clear();
    signature = "";
    changed();
  };

  // ---- colours

  function mixed(share) {
    const scale = SCALES[M.theme()] || SCALES.light;
    const place = Math.min(Math.max(share, 0), 1) * (scale.length - 1);
    const from = Math.min(Math.floor(place), scale.length - 2);
    const part = place - from;
    const channel = (at, start) => parseInt(scale[at].slice(start, start + 2), 16);
    const mix = (start) => Math.round(channel(from, start) * (1 - part) + channel(from + 1, start) * part);
    return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
  }

  // ---- drawing

  function yOf(share) {
    return share === null ? HEIGHT - BOTTOM + GONE - 6 : TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  }

  function line(pen, run) {
    pen.beginPath();
    axes.forEach((axis, place) => {
      const y = yOf(axis.share(axis.values[run.index]));
      if (!place) {
        pen.moveTo(axis.x, y);
        return;
      }
      const before = axes[place - 1];
      const middle = (before.x + axis.x) / 2;
      pen.bezierCurveTo(middle, yOf(before.share(before.values[run.index])), middle, y, axis.x, y);
    });
    pen.stroke();
  }

  // By place in the order, not by value: one run that went wrong does not leave the others in one colour.
  function ranks(some, value) {
    const order = [...new Set(some.map(value).filter((each) => each !== null))].sort((one, other) => one - other);
    return new Map(order.map((each, place) => [each, order.length > 1 ? place / (order.length - 1) : 0.5]));
  }

  function paint(canvas, chosen) {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const result = axes[axes.length - 1];
    const share = (run) => (result && result.result ? result.share(result.values[run.index]) : 0.5);
    const passing = runs.filter((run) => run.shown);
    const rank = ranks(passing, share);
    const faint = M.colour("faint");
    pen.lineWidth = 1;
    pen.strokeStyle = M.colour("line");
    pen.globalAlpha = 0.5;
    for (const run of runs) if (!run.shown) line(pen, run);
    pen.globalAlpha = Math.min(0.85, Math.max(0.16, 60 / Math.max(passing.length, 1)));
    pen.lineWidth = passing.length > 300 ? 1 : 1.5;
    for (const run of passing) {
      const value = share(run);
      pen.strokeStyle = value === null ? faint : mixed(rank.get(value));
      line(pen, run);
    }
    pen.globalAlpha = 1;
    for (const { run, place } of chosen) {
      pen.strokeStyle = M.colour("card");
      pen.lineWidth = 5;
      line(pen, run);
      pen.strokeStyle = M.runColour(place);
      pen.lineWidth = 2.6;
      line(pen, run);
    }
  }

  function axisNodes(axis) {
    const made = [];
    const title = axis.result ? `${axis.name}, ${axis.under}` : axis.key;
    const name = M.element("div", { class: "axis-name", title }, axis.name, M.element("small", { text: axis.under || "\u00a0" }));
    name.style.left = `${axis.x}px`;
    made.push(name);
    const strip = M.element("div", { class: "axis-line", "data-axis": axis.key, title });
    Object.assign(strip.style, { left: `${axis.x}px`, top: `${TOP}px`, height: `${HEIGHT - TOP - BOTTOM}px` });
    const range = ranges.get(axis.key);
    if (range) strip.append(rangeNode(range));
    listen(strip, axis);
    made.push(strip);
    for (const [share, text] of axis.ticks) {
      const tick = M.element("span", { class: `axis-tick${axis.result ? " left" : ""}`, text, title: text });
      Object.assign(tick.style, { left: `${axis.x}px`, top: `${yOf(share)}px` });
      made.push(tick);
    }
    return made;
  }

  function rangeNode([low, high]) {
    const node = M.element("div", { class: "axis-range" });
    Object.assign(node.style, { top: `${100 * (1 - high)}%`, height: `${Math.max(100 * (high - low), 1)}%` });
    return node;
  }

  function listen(strip, axis) {
    const shareAt = (event) => {
      const box = strip.getBoundingClientRect();
      const share = 1 - (event.clientY - box.top) / box.height;
      return share < AT_THE_END ? 0 : share > 1 - AT_THE_END ? 1 : share;
    };
    let from = null;
    strip.addEventListener("pointerdown", (event) => {
      from = shareAt(event);
      dragging = true;
      strip.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    strip.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = shareAt(event);
      strip.replaceChildren(rangeNode([Math.min(from, to), Math.max(from, to)]));
    });
    const end = (event) => {
      if (from === null) return;
      dragging = false;
      const to = shareAt(event);
      if (Math.abs(to - from) < 0.015) ranges.delete(axis.key);
      else ranges.set(axis.key, [Math.min(from, to), Math.max(from, to)]);
      from = null;
      changed();
    };
    strip.addEventListener("pointerup", end);
    strip.addEventListener("pointercancel", () => {
      from = null;
      dragging = false;
      signature = "";
      changed();
    });
  }

  function showScale() {
    const result = axes[axes.length - 1];
    const scale = M.byId("scale");
    scale.hidden = !(result && result.result && Number.isFinite(result.low));
    if (scale.hidden) return;
    scale.style.setProperty("--scale", (SCALES[M.theme()] || SCALES.light).join(", "));
    M.setText(M.byId("scale-low"), M.number(result.low));
    M.setText(M.byId("scale-high"), M.number(result.high));
    M.setText(M.byId("scale-name"), `${result.name}, ${result.under}; colours by rank`);
  }

  function showNothing(body, data) {
    const why = data.table.name.length < 2 ? "It takes two runs to compare settings." : "The runs do not differ in any setting that is recorded, or none is chosen.";
    body.replaceChildren(M.element("p", { class: "empty pad", text: why }));
  }

  // every: all runs, with run.shown; chosen: [{run, place}]; listener: is called when a range changed
  M.showParallel = function (data, every, chosen, listener) {
    [runs, changed] = [every, listener];
    if (dragging) return; // new data wait until the hand is off
    const body = M.byId("parallel-body");
    const width = M.byId("parallel-scroll").clientWidth;
    axes = makeAxes(data);
    const told = JSON.stringify([data.written, view.metric, view.part, view.axes && [...view.axes], [...ranges], M.theme(), width, window.devicePixelRatio, runs.map((run) => (run.shown ? 1 : 0)).join(""), chosen.map(({ run, place }) => [run.name, place])]);
    if (told === signature) return;
    signature = told;
    M.byId("clear-ranges").hidden = !M.hasRanges();
    const useful = axes.length > 1;
    M.byId("parallel-hint").hidden = !useful;
    if (!useful) {
      M.byId("scale").hidden = true;
      showNothing(body, data);
      return;
    }
    const wide = Math.max(width, 2 * SIDE + LEAST_GAP * (axes.length - 1));
    axes.forEach((axis, place) => {
      axis.x = SIDE + (place * (wide - 2 * SIDE)) / (axes.length - 1);
    });
    const sharp = window.devicePixelRatio || 1;
    const canvas = M.element("canvas", { width: Math.round(wide * sharp), height: Math.round(HEIGHT * sharp), role: "img", "aria-label": `${M.count(runs.filter((run) => run.shown).length)} runs, one line each, through ${axes.map((axis) => axis.name).join(", ")}` });
    Object.assign(canvas.style, { width: `${wide}px`, height: `${HEIGHT}px` });
    canvas.getContext("2d").scale(sharp, sharp);
    body.style.width = `${wide}px`;
    body.replaceChildren(canvas, ...axes.flatMap(axisNodes));
    paint(canvas, chosen);
    showScale();
  };

  M.showAxisChoices = function (data, listener) {
    const host = M.byId("axis-choices");
    const picked = view.axes || new Set(data.settings.slice(0, MOST_AXES).map((setting) => setting.key));
    M.byId("axes").hidden = data.settings.length < 2;
    const text = JSON.stringify([data.settings.map((setting) => setting.key), [...picked]]);
    if (host.dataset.told === text) return;
    host.dataset.told = text;
    host.replaceChildren(
      ...data.settings.map((setting) => {
        const box = M.element("input", { type: "checkbox", checked: picked.has(setting.key) });
        box.addEventListener("change", () => {
          view.axes = new Set(picked);
          view.axes[box.checked ? "add" : "delete"](setting.key);
          host.dataset.told = "";
          ranges.delete(setting.key);
          listener();
        });
        return M.element("label", {}, box, M.element("span", { class: "mono", text: setting.key }));
      }),
    );
  };

  M.parallelView = view;
})(window.musictrain);
