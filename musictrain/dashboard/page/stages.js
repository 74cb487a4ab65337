// The page of a protocol: its stages, their curves behind one another, and what each of them plays; loaded again while it trains.
"use strict";

(function (M) {
  const SCHEMA = 1;
  const EVERY_MS = 3000;
  const EVERY_MS_QUIET = 60000;
  const SILENT_SECONDS = 60;
  const TONES = { finished: "good", stopped: "warn", interrupted: "warn", paused: "warn", failed: "bad", stale: "warn" };
  const ACTIVE = ["starting", "training", "validating", "sampling", "saving"];
  let data = null;
  let timer = 0;
  let received = 0;
  let drawn = "";

  const toRun = (stage) => `../${encodeURIComponent(stage.run)}`;
  const stateOf = (stage) => (stage.state === "begun" ? stage.doing || "starting" : stage.state);

  function pill(state) {
    return M.element("span", { class: "pill", "data-tone": ACTIVE.includes(state) ? "busy" : TONES[state] || null, text: state });
  }

  function progress(stage) {
    if (!M.isNumber(stage.step)) return null;
    const words = stage.total > 0 ? `${M.count(stage.step)} of ${M.count(stage.total)} steps` : `${M.count(stage.step)} steps`;
    return M.element("p", { text: stage.elapsed ? `${words}, ${M.duration(stage.elapsed)}` : words });
  }

  function pieces(stage) {
    return (stage.samples || []).map(({ step, file }) => {
      const path = `${toRun(stage)}/samples/${file.split("/").map(encodeURIComponent).join("/")}`;
      const name = `${file.split("/").pop()}, step ${M.count(step)}`;
      return M.element("div", { class: "piece" }, M.element("audio", { controls: true, preload: "none", src: `${path}.wav`, "aria-label": `${stage.name}: ${name}` }), M.element("span", { class: "quiet" }, `${name} `, M.element("a", { href: `${path}.mid`, text: ".mid" })));
    });
  }

  function cardOf(stage, place) {
    const best = stage.best && M.isNumber(stage.best.value) ? `best ${stage.best.metric} ${M.number(stage.best.value)} at step ${M.count(stage.best.step)}` : null;
    const card = M.element("li", { class: "card stage" },
      M.element("h3", {}, M.element("span", { text: `${place + 1}. ${stage.name}` }), pill(stateOf(stage))),
      M.element("p", { class: "quiet", text: stage.budget }),
      M.element("p", { class: "quiet", text: `begins with ${stage.takes_over}`, title: stage.started_from }),
      progress(stage),
      best ? M.element("p", { text: best }) : null,
      stage.alerts ? M.element("p", { text: `${M.count(stage.alerts)} ${stage.alerts === 1 ? "alert" : "alerts"}` }) : null,
      stage.reason ? M.element("p", { text: stage.reason }) : null,
      stage.run ? M.element("p", {}, stage.page ? M.element("a", { href: `${toRun(stage)}/dashboard.html`, text: M.shortName(stage.run) }) : M.shortName(stage.run)) : null,
      pieces(stage));
    card.style.setProperty("--swatch", M.runColour(place));
    return card;
  }

  // Redrawn only where something differs, so that what plays goes on playing.
  function showStages() {
    const list = M.byId("list");
    const texts = data.stages.map((stage) => JSON.stringify([stage, M.theme()]));
    data.stages.forEach((stage, place) => {
      const before = list.children[place];
      if (before && before.dataset.told === texts[place]) return;
      if (before && [...before.querySelectorAll("audio")].some((each) => !each.paused)) return;
      const card = cardOf(stage, place);
      card.dataset.told = texts[place];
      if (before) before.replaceWith(card);
      else list.append(card);
    });
    while (list.children.length > data.stages.length) list.lastChild.remove();
  }

  function showReplaced() {
    M.byId("replaced").hidden = !data.replaced.length;
    const text = JSON.stringify(data.replaced);
    if (text === drawn) return;
    drawn = text;
    M.byId("replaced-list").replaceChildren(...data.replaced.map((each) => M.element("li", {}, `${each.stage}: `, M.element("a", { href: `${toRun(each)}/dashboard.html`, text: M.shortName(each.run) }))));
  }

  function showHeader() {
    document.title = data.title;
    M.setText(M.byId("title"), data.title);
    const done = data.stages.filter((stage) => stage.state === "finished").length;
    const going = data.live && Date.now() / 1000 - data.written < SILENT_SECONDS;
    const words = [`${M.count(done)} of ${M.count(data.stages.length)} stages done`];
    if (going && data.left) words.push(`about ${M.duration(data.left[0])} left (${M.roughly(data.left[1])} to ${M.roughly(data.left[2])})`, `ends ${M.moment(data.written + data.left[0])}`);
    if (!going && done < data.stages.length) words.push("nobody trains it now: the same command goes on where it was");
    M.setText(M.byId("summary"), words.join(" · "));
    const share = done === data.stages.length ? 1 : data.share || 0;
    M.byId("bar").style.width = `${100 * share}%`;
    M.byId("progress").setAttribute("aria-valuenow", String(Math.round(100 * share)));
    M.setText(M.byId("written"), `Written ${M.moment(data.written, true)}.`);
  }

  function showCurves() {
    const keys = Object.keys(data.curves);
    const select = M.byId("curve-metric");
    const text = JSON.stringify(keys);
    if (select.dataset.told !== text) {
      select.dataset.told = text;
      select.replaceChildren(...keys.map((key) => M.element("option", { value: key, text: key })));
    }
    if (!keys.includes(M.curveView.metric)) M.curveView.metric = keys[0] || "";
    select.value = M.curveView.metric;
    const told = data.curves[M.curveView.metric] || {};
    M.showCurves(data, data.stages.map((stage, place) => ({ run: { name: stage.name, index: place }, place })).filter(({ place }) => told[place]));
    if (!keys.length) {
      M.byId("curve-note").hidden = false;
      M.setText(M.byId("curve-note"), "Nothing has been logged yet.");
    }
  }

  function show() {
    if (!data) return;
    showHeader();
    showStages();
    showCurves();
    showReplaced();
  }

  M.stages = function (fresh) {
    received += 1;
    if (!fresh || fresh.schema !== SCHEMA) {
      tell("This page and its data were written by different versions of musictrain. The next start of the protocol writes both anew.");
      return;
    }
    data = fresh;
    if (document.readyState !== "loading") show();
  };

  function tell(words) {
    M.byId("message").hidden = !words;
    M.setText(M.byId("message"), words);
  }

  function load() {
    window.clearTimeout(timer);
    const before = received;
    M.addScript(
      `${encodeURIComponent(M.settings.data)}?t=${Date.now()}`,
      () => {
        tell(received === before ? `${M.settings.data} cannot be understood.` : "");
        next();
      },
      () => {
        tell(`${M.settings.data} is missing beside this page: start the protocol again.`);
        next();
      },
    );
  }

  function next() {
    window.clearTimeout(timer);
    timer = window.setTimeout(load, data && data.live && !document.hidden ? EVERY_MS : EVERY_MS_QUIET);
  }

  function start() {
    M.byId("theme").addEventListener("click", M.switchTheme);
    M.onTheme(show);
    M.byId("log-y").addEventListener("click", (event) => {
      M.curveView.logY = !M.curveView.logY;
      event.currentTarget.setAttribute("aria-pressed", String(M.curveView.logY));
      show();
    });
    M.byId("curve-metric").addEventListener("change", (event) => {
      M.curveView.metric = event.target.value;
      show();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) load();
    });
    if (M.settings.plotly) M.addScript(`../${encodeURIComponent(M.settings.plotly)}`, show, () => {});
    load();
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})(window.musictrain);
