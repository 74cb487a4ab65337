// All charts of the page: which there are, one horizontal range for all, and when each is drawn: only what changed and is in sight.
"use strict";

(function (M) {
  const SECTIONS = ["learning", "music", "machine"];
  const FIRST_CHARTS = 12;
  const MORE_CHARTS = 24;
  const NEAR = "400px";

  const { curves } = M;
  const charts = new Map(); // by section and name
  const shown = new Map(SECTIONS.map((section) => [section, FIRST_CHARTS]));
  const buttons = new Map();
  const zoomListeners = [];
  let pending = false;

  const observer = new IntersectionObserver(
    (entries) => {
      const inSight = new Map(entries.map((entry) => [entry.target, entry.isIntersecting]));
      for (const chart of charts.values()) chart.inSight = inSight.get(chart.node) ?? chart.inSight;
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
    const next = [...charts.values()].find((chart) => chart.inSight && chart.signature() !== chart.drawn);
    if (!next) return;
    next.draw();
    schedule();
  }

  function steer(range) {
    curves.setRange(range);
    changed();
  }

  function reset() {
    Object.assign(curves.view, { range: null, marked: null });
    changed();
  }

  function changed() {
    for (const listener of zoomListeners) listener(curves.view.range);
    schedule();
  }

  function chartFor(section, spec) {
    const id = `${section} ${spec.name}`;
    const known = charts.get(id);
    if (known) {
      known.take(spec);
      return known;
    }
    const chart = new M.Chart(spec, steer, reset);
    charts.set(id, chart);
    observer.observe(chart.node);
    return chart;
  }

  function showSection(section, specs) {
    const most = shown.get(section);
    const nodes = specs.slice(0, most).map((spec) => chartFor(section, spec).node);
    // The last of an odd number has the row for itself.
    const narrow = nodes.filter((node) => !node.classList.contains("broad"));
    narrow.forEach((node, place) => node.classList.toggle("alone", narrow.length % 2 === 1 && place === narrow.length - 1));
    if (specs.length > most) nodes.push(moreButton(section, specs, most));
    const host = M.byId(`charts-${section}`);
    const same = nodes.length === host.children.length && nodes.every((node, place) => host.children[place] === node);
    if (!same) host.replaceChildren(...nodes);
    M.byId(`empty-${section}`).hidden = specs.length > 0;
  }

  function moreButton(section, specs, most) {
    const button = buttons.get(section) || M.element("button", { class: "button more-charts", type: "button" });
    buttons.set(section, button);
    M.setText(button, `Show ${Math.min(MORE_CHARTS, specs.length - most)} more of ${specs.length - most}`);
    button.onclick = () => {
      shown.set(section, most + MORE_CHARTS);
      showSection(section, specs);
      schedule();
    };
    return button;
  }

  M.plot = {
    // New data: takes it in and draws again what it changed.
    take(data) {
      curves.take(data);
      const specs = data.charts || [];
      for (const section of SECTIONS) showSection(section, specs.filter((chart) => chart.section === section));
      schedule();
    },
    // To a step in every chart, in its surroundings.
    jump(step) {
      const [first, last] = curves.fullRange();
      const width = Math.max(0.2 * (last - first), 10);
      curves.view.marked = step;
      steer([step - width / 2, step + width / 2]);
    },
    reset,
    set(options) {
      Object.assign(curves.view, options);
      changed();
    },
    onZoom: (listener) => zoomListeners.push(listener),
    // Plotly has come.
    redraw() {
      for (const chart of charts.values()) chart.drawn = "";
      schedule();
    },
    view: curves.view,
    has: curves.has,
    curve: curves.get,
    smoothingSteps: curves.smoothingSteps,
  };

  M.onTheme(() => {
    for (const chart of charts.values()) chart.tell();
    schedule();
  });
})(window.musictrain);
