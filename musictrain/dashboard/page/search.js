// The page of a search: its points best first, lines through settings, what mattered, curves by rung, failures; loaded again while it goes on.
"use strict";

(function (M) {
  const SCHEMA = 1;
  const EVERY_MS = 4000;
  const EVERY_MS_QUIET = 60000;
  const SILENT_SECONDS = 90;
  const FIRST_ROWS = 10;
  const FIRST_CHOSEN = 3;
  const MOST_COLUMNS = 8;
  const view = { rows: FIRST_ROWS, objective: 0 };
  const chosen = new Map(); // name of a point: place of its colour
  const texts = {};
  let data = null;
  let overview = null;
  let points = [];
  let timer = 0;
  let received = 0;

  const toRun = (run) => `../${encodeURIComponent(run)}`;
  const going = () => data.live && Date.now() / 1000 - data.written < SILENT_SECONDS;
  const chosenPoints = () => points.filter((point) => chosen.has(point.name)).map((run) => ({ run, place: chosen.get(run.name) })).sort((one, other) => one.place - other.place);

  function choose(name, wanted) {
    if (!wanted) return chosen.delete(name);
    if (chosen.has(name)) return false;
    if (chosen.size >= M.MOST_CHOSEN) chosen.delete(chosen.keys().next().value);
    const taken = new Set(chosen.values());
    let place = 0;
    while (taken.has(place)) place += 1;
    return chosen.set(name, place);
  }

  // Until the reader has chosen, the best are.
  function chooseFirst() {
    const known = new Set(points.map((point) => point.name));
    for (const name of [...chosen.keys()]) if (!known.has(name)) chosen.delete(name);
    if (texts.chosenByReader) return;
    const best = points.filter((point) => point.rank && point.rank <= FIRST_CHOSEN).map((point) => point.name);
    if ([...chosen.keys()].join() === best.join()) return;
    chosen.clear();
    for (const name of best) choose(name, true);
  }

  function pick(index) {
    texts.chosenByReader = true;
    choose(points[index].name, !chosen.has(points[index].name));
    show();
  }

  // ---- header

  function fact(name, value, more) {
    return M.element("div", {}, M.element("dt", { text: name }), M.element("dd", {}, value, more ? M.element("small", { text: more }) : null));
  }

  function showHeader() {
    const told = data.facts;
    document.title = data.title;
    M.setText(M.byId("title"), data.title);
    const best = points.find((point) => point.rank === 1);
    const state = told.state === "going on" && !going() ? "paused" : told.state;
    const words = [told.space, told.rule, told.state === "going on" && !going() ? "nobody drives it now: the same command goes on where it was" : null];
    M.setText(M.byId("summary"), words.filter(Boolean).join(" · "));
    const pill = M.byId("state");
    pill.hidden = !state;
    pill.dataset.tone = { "going on": "busy", finished: "good" }[state] || "warn";
    M.setText(pill, state);
    const share = told.state === "finished" ? 1 : told.share || 0;
    M.byId("bar").style.width = `${100 * share}%`;
    M.byId("progress").setAttribute("aria-valuenow", String(Math.round(100 * share)));
    const result = best && M.resultText(best.results[0]);
    const metric = data.objectives.length ? data.objectives[0].words : "";
    const facts = [
      fact(`Best: ${metric}`, result ? result.mean : "–", result ? `${result.half}${result.seeds > 1 ? ` over ${result.seeds} seeds` : ""}` : "no point has a result yet"),
      fact("Trials done", `${M.count(told.done)} of ${M.count(told.trials)}`, told.reused ? `${M.count(told.reused)} of them were known before` : null),
      fact("Rung", data.rungs.length > 1 && told.rung ? `${told.rung} of ${data.rungs.length}` : "–", told.rung ? `${M.count(data.rungs[told.rung - 1])} steps` : null),
      fact("Running", M.count(told.running), told.slots ? `${M.count(told.slots)} at a time` : null),
      fact("Failed", M.count(told.failed), told.failed ? told.failed === 1 ? "its reason is below" : "reasons below" : null),
      fact("Trained so far", M.roughly(told.elapsed), "all trials together"),
      fact("Time left", going() && told.left ? `about ${M.roughly(told.left[0])}` : "–", going() && told.left ? `${M.roughly(told.left[1])} to ${M.roughly(told.left[2])}, ends ${M.moment(data.written + told.left[0])}` : null),
    ];
    M.byId("facts").replaceChildren(...facts);
    M.setText(M.byId("written"), `Written ${M.moment(data.written, true)}.`);
    const left = M.byId("left-out");
    left.hidden = !data.left_out.length;
    M.setText(left, `Left out so that this page stays light: ${data.left_out.join("; ")}.`);
  }

  function showObjectives() {
    const label = M.byId("objective-label");
    label.hidden = data.objectives.length < 2;
    const text = JSON.stringify(data.objectives);
    if (texts.objectives === text) return;
    texts.objectives = text;
    view.objective = Math.min(view.objective, Math.max(data.objectives.length - 1, 0));
    M.byId("objective").replaceChildren(...data.objectives.map((each, place) => M.element("option", { value: place, text: each.words })));
    M.byId("objective").value = view.objective;
  }

  // ---- table

  function columns() {
    return M.varying(data).slice(0, MOST_COLUMNS);
  }

  function showHeads() {
    const names = ["Rank", ...data.objectives.map((each) => each.metric), "Steps", ...columns().map((each) => each.name), "State", "Trials"];
    const numbers = data.objectives.length + 2;
    const numeric = new Set(columns().flatMap((each, place) => (points.every((point) => M.isNumber(point.values[each.key] ?? 0)) ? [numbers + place] : [])));
    const text = JSON.stringify([names, [...numeric]]);
    if (texts.heads === text) return;
    texts.heads = text;
    M.byId("heads").replaceChildren(M.element("th", { scope: "col", class: "pick" }, M.element("span", { class: "only-read-aloud", text: "Colour" })), ...names.map((name, place) => M.element("th", { scope: "col", class: place < numbers || numeric.has(place) ? "number" : null, text: name })));
  }

  function trialLinks(point) {
    return point.trials.map((trial) => {
      const text = `seed ${trial.seed}`;
      const title = [trial.run || trial.name, trial.state, trial.reason].filter(Boolean).join("\n");
      return trial.page ? M.element("a", { href: `${toRun(trial.run)}/dashboard.html`, title, text }) : M.element("span", { class: "quiet", title, text });
    });
  }

  function rowOf(point) {
    const box = M.element("input", { type: "checkbox", "data-point": point.name, "aria-label": `Colour point ${point.name}` });
    const results = data.objectives.map((objective, place) => {
      const told = M.resultText(point.results[place]);
      return M.element("td", { class: "number", "data-label": objective.metric }, told ? [told.mean, told.half ? M.element("span", { class: "interval", text: told.half }) : null] : null);
    });
    const values = columns().map((parameter) => {
      const value = point.values[parameter.key];
      return M.element("td", { class: M.isNumber(value) ? "number" : null, "data-label": parameter.name, text: M.valueText(value) });
    });
    const star = point.front && data.objectives.length > 1 ? M.element("span", { class: "star", title: "On the Pareto front", text: " ★" }) : null;
    return M.element("tr", { title: point.name }, M.element("td", { class: "pick plain" }, M.element("label", {}, box, M.element("span", { class: "swatch" }))),
      M.element("td", { class: "number plain", "data-label": "Rank" }, point.rank ? M.count(point.rank) : "–", star), results, M.element("td", { class: "number", "data-label": "Steps", text: M.count(point.step) }), values, M.element("td", { class: "plain" }, M.searchPill(point.state)), M.element("td", { class: "trials plain", "data-label": "Trials" }, trialLinks(point)));
  }

  function showRows() {
    const some = points.filter((point) => point.shown);
    const rows = some.slice(0, view.rows);
    const text = JSON.stringify([rows, data.objectives, data.parameters]);
    if (texts.rows !== text) {
      texts.rows = text;
      const focused = document.activeElement && document.activeElement.dataset.point;
      M.byId("rows").replaceChildren(...rows.map(rowOf));
      if (focused) [...M.byId("rows").querySelectorAll("input")].find((box) => box.dataset.point === focused)?.focus();
    }
    for (const box of M.byId("rows").querySelectorAll("input")) {
      box.checked = chosen.has(box.dataset.point);
      box.parentElement.style.setProperty("--swatch", box.checked ? M.runColour(chosen.get(box.dataset.point)) : "transparent");
    }
    M.byId("table").parentElement.hidden = !rows.length;
    const none = M.byId("no-rows");
    none.hidden = rows.length > 0;
    M.setText(none, points.length ? "No point lies in these ranges." : "There are no points yet.");
    M.setText(M.byId("points-title"), some.length < points.length ? `Points, ${M.count(some.length)} of ${M.count(points.length)}` : `Points, ${M.count(points.length)}`);
    M.byId("more").hidden = some.length <= view.rows;
    M.setText(M.byId("more"), `Show all ${M.count(some.length)}`);
    M.setText(M.byId("about-results"), data.facts.about || "");
  }

  // ---- what mattered, failures, the space

  function bar(each, most, names) {
    const share = (value) => `${100 * Math.min(Math.max(value / most, 0), 1)}%`;
    const [from, to] = [Math.max(each.mean - each.spread, 0), Math.max(each.mean + each.spread, 0)];
    const track = M.element("span", { class: "track", "aria-hidden": "true" }, M.element("i"), M.element("b"));
    track.style.setProperty("--share", share(each.mean));
    track.style.setProperty("--from", share(from));
    track.style.setProperty("--width", share(to - from));
    return M.element("li", { title: each.key }, M.element("span", { class: "name", text: names.get(each.key) || each.key }), track, M.element("span", { class: "number", text: `${M.number(each.mean, 2)} ± ${M.number(each.spread, 2)}` }));
  }

  function showImportance() {
    const told = data.importance;
    M.byId("importance").hidden = !told;
    if (!told || texts.importance === JSON.stringify(told)) return;
    texts.importance = JSON.stringify(told);
    const names = new Map(data.parameters.map((each) => [each.key, each.name]));
    const most = Math.max(...told.parameters.map((each) => each.mean + each.spread), 1e-9);
    const bars = M.byId("bars");
    bars.replaceChildren(...told.parameters.map((each) => bar(each, most, names)));
    bars.toggleAttribute("data-unsure", Boolean(told.unsure));
    M.setText(M.byId("importance-sentence"), [told.sentence, told.about].filter(Boolean).join(" "));
  }

  function showFailures() {
    M.byId("failures").hidden = !data.failures.length;
    const text = JSON.stringify(data.failures);
    if (texts.failures === text) return;
    texts.failures = text;
    M.setText(M.byId("failures-title"), `Failures, ${M.count(data.failures.length)}`);
    M.byId("failure-list").replaceChildren(...data.failures.map((each) => {
      const where = each.page ? M.element("a", { href: `${toRun(each.run)}/dashboard.html`, text: each.name }) : M.element("span", { text: each.name });
      const tries = each.attempts > 1 ? `, ${M.count(each.attempts)} attempts` : "";
      return M.element("li", { class: "alert" }, M.element("span", { class: "level", "data-level": "ERROR" }, where), M.element("span", { class: "words" }, each.reason, M.element("span", { class: "advice", text: each.words })), M.element("span", { class: "where", text: `seed ${each.seed}, step ${M.count(each.step)}${tries}` }));
    }));
  }

  function showSpace() {
    const rows = [...data.parameters.map((each) => [each.key, each.told]), ...(data.facts.constraints || []).map((each) => ["only where", each]), ["objective", data.objectives.map((each) => each.words).join("; ")], ["rungs", data.rungs.map((step) => M.count(step)).join(", ")], ["seeds", (data.facts.seeds || []).join(", ")], ["rule", data.facts.rule]].filter(([, told]) => told);
    const text = JSON.stringify(rows);
    if (texts.space === text) return;
    texts.space = text;
    M.byId("space-rows").replaceChildren(...rows.map(([key, told]) => M.element("tr", {}, M.element("th", { scope: "row", text: key }), M.element("td", { text: told }))));
  }

  function show() {
    if (!data) return;
    chooseFirst();
    showHeader();
    showObjectives();
    M.parallelView.metric = overview.metrics.length ? overview.metrics[0].key : "";
    M.parallelView.part = "mean";
    // The axes have to be known before their ranges can be asked.
    for (const pass of [0, 1]) {
      for (const point of points) point.shown = pass === 0 || M.inRanges(point);
      M.showParallel(overview, points, chosenPoints(), show);
    }
    for (const point of points) point.shown = M.inRanges(point);
    M.showAxisChoices(overview, show);
    const some = points.filter((point) => point.shown);
    const picked = chosenPoints();
    showHeads();
    showRows();
    showImportance();
    M.showFront(data, some, picked, pick);
    M.showParameters(data, some, view.objective, picked, pick);
    M.showSearchCurves(data, some, view.objective, picked);
    showFailures();
    showSpace();
  }

  M.search = function (fresh) {
    received += 1;
    if (!fresh || fresh.schema !== SCHEMA) {
      tell("This page and its data were written by different versions of musictrain. The next start of the search writes both anew.");
      return;
    }
    tell("");
    if (data && fresh.written === data.written) return;
    data = fresh;
    points = fresh.points.map((point, index) => ({ ...point, index, shown: true }));
    overview = M.asOverview(data, view.objective);
    if (document.readyState !== "loading") show();
  };

  function tell(words) {
    M.byId("message").hidden = !words;
    M.setText(M.byId("message"), words);
  }

  // ---- loading

  function load() {
    window.clearTimeout(timer);
    const before = received;
    M.addScript(
      `${encodeURIComponent(M.settings.data)}?t=${Date.now()}`,
      () => {
        if (received === before) tell(`${M.settings.data} cannot be understood.`);
        next();
      },
      () => {
        tell(`${M.settings.data} is missing beside this page: start the search again.`);
        next();
      },
    );
  }

  function next() {
    window.clearTimeout(timer);
    timer = window.setTimeout(load, data && data.live && !document.hidden ? EVERY_MS : EVERY_MS_QUIET);
  }

  function toggle(button, key) {
    M.byId(button).addEventListener("click", (event) => {
      M.searchView[key] = !M.searchView[key];
      event.currentTarget.setAttribute("aria-pressed", String(M.searchView[key]));
      show();
    });
  }

  function start() {
    M.byId("theme").addEventListener("click", M.switchTheme);
    M.onTheme(show);
    toggle("log-result", "logResult");
    toggle("log-x", "logX");
    toggle("log-y", "logY");
    M.byId("objective").addEventListener("change", (event) => {
      view.objective = Number(event.target.value);
      overview = { ...M.asOverview(data, view.objective), written: `${data.written} ${view.objective}` };
      show();
    });
    M.byId("clear-ranges").addEventListener("click", M.clearRanges);
    M.byId("clear-chosen").addEventListener("click", () => {
      texts.chosenByReader = true;
      chosen.clear();
      show();
    });
    M.byId("rows").addEventListener("change", (event) => {
      texts.chosenByReader = true;
      choose(event.target.dataset.point, event.target.checked);
      show();
    });
    M.byId("more").addEventListener("click", () => {
      view.rows = Infinity;
      show();
    });
    window.addEventListener("resize", show);
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
