// The live page: loads the data again and again, shows every section, and says in plain words what is missing. Loaded last.
"use strict";

(function (M) {
  const SCHEMA = 1;
  const EVERY_MS = 2000;
  const EVERY_MS_ENDED = 20000;
  const EVERY_MS_HIDDEN = 30000;
  const LOOK_AGAIN_MS = 5000;
  const REPORT = `musictrain report ${M.settings.run}`;

  const WORDS = {
    schema: ["This page and its data were written by different versions of musictrain. Write both anew:", REPORT],
    corrupt: [
      "The data file dashboard_data.js cannot be understood. If the run goes on, it is written anew in a moment; else write it with",
      REPORT,
    ],
    missing: [
      "There is no data file beside this page: dashboard_data.js is missing. If the run has only begun, it comes in a moment; " +
        "if the page was moved alone, open it in its run folder, or make a page that stands alone:",
      REPORT,
    ],
    plotly: [
      `The charts need ${M.settings.plotly || "plotly.js"}, which is ` +
        `${M.settings.plotly ? "missing beside the run folder" : "not installed"}. ` +
        "The numbers are all here; to see the charts, install plotly and write the page anew:",
      `pip install plotly && ${REPORT}`,
    ],
  };

  let data = null;
  let received = 0;
  let timer = 0;
  let listening = false;
  let listenText = "";
  let messageShown = "";

  // ---- listen: other files bring the section

  function showListen() {
    const section = M.sections.listen;
    const text = JSON.stringify(data.listen);
    if (!section || !data.listen || text === listenText) return;
    listenText = text;
    const body = M.byId("listen-body");
    if (!listening) section.init(body, { run: data.run, jump: M.jump, live: Boolean(M.settings.live), element: M.element });
    listening = true;
    section.update(data.listen);
    // The section hides itself while there is nothing to hear.
    M.byId("empty-listen").hidden = !body.hidden;
  }

  // ---- everything

  const sections = {
    charts: () => M.plot.take(data),
    header: () => M.showHeader(data),
    attention: () => M.showAttention(data),
    vetoed: () => M.showVetoed(data),
    machine: () => M.showTiles(data),
    listen: showListen,
    replays: () => M.showReplays(data),
    settings: () => M.showSettings(M.byId("settings-body"), data),
    log: () => M.showLog(M.byId("log-body"), data),
    footer: showFooter,
  };

  function show(names = Object.keys(sections)) {
    for (const name of names) {
      try {
        sections[name]();
      } catch (error) {
        // One section that cannot be shown must not take the others with it.
        console.error(`The section ${name} could not be shown:`, error);
      }
    }
  }

  function showFooter() {
    const report = `Report of ${M.day(data.written)}, ${M.clock(data.written)}.`;
    M.setText(M.byId("written"), M.settings.live ? `Written ${M.moment(data.written, true)}.` : report);
    const left = M.byId("left-out");
    left.hidden = !data.left_out.length;
    M.setText(left, `Left out so that this page stays light: ${data.left_out.join("; ")}.`);
    for (const button of M.byId("axis").children) button.disabled = !M.plot.has(button.dataset.axis);
  }

  M.update = function (fresh) {
    received += 1;
    const known = Boolean(fresh) && fresh.schema === SCHEMA;
    tell("schema", !known);
    if (!known || (data && fresh.written === data.written)) return;
    data = fresh;
    if (document.readyState !== "loading") show();
  };

  // ---- messages: what is wrong, and what to do, the most important first

  const wrong = new Set();

  function tell(kind, isWrong) {
    if (isWrong) wrong.add(kind);
    else wrong.delete(kind);
    const host = M.byId("message");
    const first = Object.keys(WORDS).find((each) => wrong.has(each)) || "";
    if (!host || first === messageShown) return;
    messageShown = first;
    host.hidden = !first;
    if (first) host.replaceChildren(`${WORDS[first][0]} `, M.element("code", { text: WORDS[first][1] }));
  }

  // ---- loading

  function load() {
    window.clearTimeout(timer);
    const before = received;
    const told = (missing) => {
      tell("missing", missing);
      tell("corrupt", !missing && received === before);
      next();
    };
    M.addScript(
      `dashboard_data.js?t=${Date.now()}`,
      () => told(false),
      () => told(true),
    );
  }

  function next() {
    window.clearTimeout(timer);
    const ended = data && !M.isActive(M.stateOf(data));
    timer = window.setTimeout(load, document.hidden ? EVERY_MS_HIDDEN : ended ? EVERY_MS_ENDED : EVERY_MS);
  }

  // One copy beside all runs; or inside this run, where nobody may write beside it.
  function loadPlotly() {
    if (window.Plotly) return;
    const name = M.settings.plotly;
    const missing = () => tell("plotly", true);
    if (name) M.addScript(`../${name}`, M.plot.redraw, () => M.addScript(name, M.plot.redraw, missing));
    else missing();
  }

  // ---- what a reader can do

  function listenToReader() {
    M.byId("theme").addEventListener("click", M.switchTheme);
    M.byId("reset-zoom").addEventListener("click", M.plot.reset);
    M.byId("axis").addEventListener("click", (event) => {
      const chosen = event.target.closest("button");
      if (!chosen || chosen.disabled) return;
      for (const button of M.byId("axis").children) button.setAttribute("aria-pressed", String(button === chosen));
      M.plot.set({ axis: chosen.dataset.axis });
    });
    M.byId("log-y").addEventListener("click", (event) => {
      const logY = !M.plot.view.logY;
      event.currentTarget.setAttribute("aria-pressed", String(logY));
      M.plot.set({ logY });
    });
    M.byId("smoothing").addEventListener("input", (event) => {
      const smoothing = Number(event.target.value);
      M.plot.set({ smoothing });
      M.setText(M.byId("smoothing-value"), smoothing ? `± ${M.number(M.plot.smoothingSteps(), 2)} steps` : "off");
    });
    M.plot.onZoom((range) => {
      M.byId("zoomed").hidden = !range;
      if (range) M.setText(M.byId("zoomed-text"), `Steps ${M.count(Math.max(0, range[0]))} to ${M.count(range[1])}`);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && M.settings.live) load();
    });
  }

  // The section that is being read is marked in the navigation.
  function followSections() {
    const links = new Map([...document.querySelectorAll(".nav a")].map((link) => [link.hash.slice(1), link]));
    const list = document.querySelector(".nav ul");
    const inSight = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) inSight[entry.isIntersecting ? "add" : "delete"](entry.target.id);
        const current = links.get([...links.keys()].find((id) => inSight.has(id)));
        for (const link of links.values()) {
          if (link === current) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
        }
        // On a narrow screen the navigation is wider than the window.
        if (current && list.scrollWidth > list.clientWidth) list.scrollLeft = current.offsetLeft - list.offsetLeft - 60;
      },
      { rootMargin: "-70px 0px -55% 0px" },
    );
    for (const section of document.querySelectorAll("main > section")) observer.observe(section);
  }

  function start() {
    listenToReader();
    followSections();
    loadPlotly();
    if (M.settings.live) load();
    if (data) show();
    // A run that falls silent is noticed without new data.
    window.setInterval(() => {
      if (data && !document.hidden) show(["header", "attention"]);
    }, LOOK_AGAIN_MS);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})(window.musictrain);
