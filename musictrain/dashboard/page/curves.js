// The curves as they came: out of the data's texts, with what they are drawn against. Nothing here touches the page.
"use strict";

(function (M) {
  const view = { axis: "step", logY: false, smoothing: 0, range: null, marked: null };
  const curves = new Map(); // by key
  let axes = { tokens: decoded({}), time: decoded({}), text: "", change: 0 };
  let marks = { versions: [], alerts: [], vetoed: [], actions: [], bands: new Map(), text: "", change: 0 };
  let changes = 0;

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
    const curve = { told, ...decoded(told), change: ++changes, low: null, high: null };
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
    const vetoed = data.vetoed || [];
    const actions = (data.actions || []).filter((action) => M.isNumber(action.step));
    const fates = versions.map(({ name, removed, vetoed: veto }) => [name, removed, veto]);
    const shown = [fates, alerts.map(({ step, level }) => [step, level]), vetoed, actions, data.bands];
    const text = JSON.stringify(shown);
    if (text === marks.text) return;
    const bands = new Map((data.bands || []).map(([key, low, high]) => [key, [low, high]]));
    marks = { versions, alerts, vetoed, actions, bands, text, change: ++changes };
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

  // Steps and what the axis shows instead of them; null while it shows steps.
  function axisTable() {
    const table = view.axis === "step" ? null : axes[view.axis];
    return table && table.steps.length ? table : null;
  }

  function secondsPerUnit() {
    const most = axes.time.values.length ? axes.time.values[axes.time.values.length - 1] : 0;
    return most < 180 ? [1, "seconds"] : most < 7200 ? [60, "minutes"] : [3600, "hours"];
  }

  function xOfStep(step) {
    const table = axisTable();
    if (!table) return step;
    const there = step <= 0 ? 0 : Math.max(0, along(table.steps, table.values, step));
    return view.axis === "time" ? there / secondsPerUnit()[0] : there;
  }

  function stepOfX(x) {
    const table = axisTable();
    return table ? along(table.values, table.steps, view.axis === "time" ? x * secondsPerUnit()[0] : x) : x;
  }

  function axisTitle() {
    if (!axisTable()) return "optimizer steps";
    return view.axis === "tokens" ? "tokens read" : `${secondsPerUnit()[1]} of training`;
  }

  function hoverTitle() {
    if (!axisTable()) return "step %{x:,.0f}";
    return view.axis === "tokens" ? "%{x:,.0f} tokens" : `%{x:.1f} ${secondsPerUnit()[1]}`;
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

  // A range within what there is, and not narrower than two steps; the whole becomes none.
  function setRange([from, to]) {
    const [first, last] = fullRange();
    const width = Math.min(Math.max(to - from, Math.min(2, last - first)), last - first);
    const start = Math.min(Math.max(from, first), last - width);
    view.range = width >= 0.999 * (last - first) ? null : [start, start + width];
  }

  // ---- smoothing

  // How far smoothing looks to either side, in steps; the same for every curve, however often it was recorded.
  function smoothingSteps() {
    const [first, last] = fullRange();
    return view.smoothing ** 2 * 0.08 * (last - first);
  }

  // Weighted straight lines around each point: nothing is delayed, and the steep beginning of a loss is not bent. Gaps stay gaps.
  function smoothed(steps, values) {
    const width = Math.max(smoothingSteps(), 1e-9);
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

  // ---- ticks of the vertical axis

  // Of a logarithmic one, ticks that are read as they are written: 0.5, not a small 5.
  function logTicks([low, high]) {
    const digits = high - low > 2.5 ? [1] : high - low > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
    const every = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      every.push(...digits.map((digit) => Number((digit * 10 ** power).toPrecision(6))));
    }
    const seen = every.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
    const kept = seen.filter((_, place) => place % Math.ceil(seen.length / 8) === 0);
    return { tickmode: "array", tickvals: kept, ticktext: kept.map((value) => M.number(value, 3)) };
  }

  function plainTicks(range) {
    const most = range ? Math.max(Math.abs(range[0]), Math.abs(range[1])) : 0;
    if (most >= 10000) return { tickformat: "~s" };
    return most < 0.01 && most > 0 ? { tickformat: "~g", exponentformat: "e" } : { tickformat: ",~g" };
  }

  M.curves = {
    view,
    take(data) {
      for (const curve of data.curves || []) takeCurve(curve);
      takeAxes(data.axes || {});
      takeMarks(data);
    },
    get: (key) => curves.get(key),
    marks: () => marks,
    band: (key) => marks.bands.get(key),
    has: (axis) => axis === "step" || axes[axis].steps.length > 0,
    // What every chart depends on besides its own curves.
    state: () => [view.axis, view.axis === "step" ? "" : axes.change, view.logY, view.smoothing, stepRange(), view.marked, marks.change],
    ...{ xOfStep, stepOfX, axisTitle, hoverTitle, fullRange, stepRange, setRange },
    ...{ smoothed, smoothingSteps, logTicks, plainTicks },
  };
})(window.musictrain);
