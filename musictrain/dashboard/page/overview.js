// The page over all runs: a table that chooses, curves of the chosen, lines through settings; the data is loaded again while runs go on.
"use strict";

(function (M) {
  const SCHEMA = 1;
  const EVERY_MS = 5000;
  const EVERY_MS_QUIET = 60000;
  const FIRST_ROWS = 100;
  const FIRST_CHOSEN = 5;
  const MOST_TAGS = 12;
  const ACTIVE = ["starting", "training", "validating", "sampling", "saving"];
  const TONES = { finished: "good", stopped: "warn", interrupted: "warn", paused: "warn", failed: "bad", stale: "warn" };
  const COLUMNS = [
    ["name", "Run"],
    ["state", "State"],
    ["progress", "Progress"],
    ["best", "Best"],
    ["bestStep", "at step"],
    ["created", "Started"],
    ["elapsed", "Took"],
    ["alerts", "Alerts"],
    ["tags", "Tags"],
  ];
  const LEAST_TRIALS = 2; // of a search that stands for its trials
  const NUMBERS = new Set(["best", "bestStep", "elapsed", "alerts"]);

  const view = { query: "", state: "", tag: "", sort: "created", descending: true, rows: FIRST_ROWS, open: new Set() };
  const chosen = new Map(); // name of a run: place of its colour
  const texts = {};
  let data = null;
  let runs = [];
  let timer = 0;
  let received = 0;

  // ---- runs

  function takeRuns(told) {
    const table = told.table;
    runs = table.name.map((name, index) => {
      const [step, total] = [table.step[index], table.total[index]];
      const run = { index, name, step, total, state: table.state[index] || "", created: table.created[index], elapsed: table.elapsed_seconds[index] };
      Object.assign(run, { best: table.best_value[index], bestStep: table.best_step[index], bestMetric: table.best_metric[index] });
      Object.assign(run, { tags: table.tags[index], alerts: table.alerts[index], note: table.note[index] || "", page: table.page[index], search: (table.search || [])[index] || "", model: table.model[index] || "", corpus: table.corpus[index] || "" });
      run.progress = M.isNumber(step) && total > 0 ? Math.min(step / total, 1) : null;
      run.text = [name, run.model, run.corpus, run.note, run.state, ...run.tags].join(" ").toLowerCase();
      return run;
    });
  }

  function chooseFirst() {
    const known = new Set(runs.map((run) => run.name));
    for (const name of [...chosen.keys()]) if (!known.has(name)) chosen.delete(name);
    if (texts.chosen) return;
    texts.chosen = "by us";
    const withCurve = new Set(Object.keys((data.curves || {})[M.curveView.metric] || {}).map(Number));
    const useful = runs.filter((run) => withCurve.has(run.index));
    const going = useful.filter((run) => ACTIVE.includes(run.state));
    const best = useful.filter((run) => M.isNumber(run.best)).sort((one, other) => one.best - other.best);
    for (const run of [...going, ...best, ...useful].slice(0, 3 * FIRST_CHOSEN)) if (chosen.size < FIRST_CHOSEN) choose(run.name, true);
  }

  function choose(name, wanted) {
    if (!wanted) return chosen.delete(name);
    if (chosen.has(name)) return true;
    if (chosen.size >= M.MOST_CHOSEN) chosen.delete(chosen.keys().next().value); // the one chosen first makes room
    const taken = new Set(chosen.values());
    let place = 0;
    while (taken.has(place)) place += 1;
    chosen.set(name, place);
    return true;
  }

  const chosenRuns = () => runs.filter((run) => chosen.has(run.name)).map((run) => ({ run, place: chosen.get(run.name) })).sort((one, other) => one.place - other.place);

  function fits(run) {
    const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
    return (!view.state || run.state === view.state) && (!view.tag || run.tags.includes(view.tag)) && words.every((word) => run.text.includes(word));
  }

  function sorted(some) {
    const value = (run) => (view.sort === "tags" ? run.tags.join(" ") || null : run[view.sort]);
    const sign = view.descending ? -1 : 1;
    const known = some.filter((run) => value(run) !== null && value(run) !== undefined && value(run) !== "");
    const unknown = some.filter((run) => !known.includes(run));
    const text = ["name", "state", "tags"].includes(view.sort);
    known.sort((one, other) => sign * (text ? String(value(one)).localeCompare(String(value(other))) : value(one) - value(other)) || one.index - other.index);
    return [...known, ...unknown];
  }

  // ---- table

  function showHeads() {
    const metrics = new Set(runs.filter((run) => M.isNumber(run.best)).map((run) => run.bestMetric));
    const oneMetric = metrics.size === 1 ? [...metrics][0] : "";
    const text = JSON.stringify([view.sort, view.descending, oneMetric]);
    if (text === texts.heads) return;
    texts.heads = text;
    const heads = COLUMNS.map(([key, label]) => {
      const head = M.element("th", { scope: "col", class: NUMBERS.has(key) ? "number" : null, "aria-sort": view.sort === key ? (view.descending ? "descending" : "ascending") : null });
      head.append(M.element("button", { type: "button", "data-sort": key, text: key === "best" && oneMetric ? `Best ${oneMetric}` : label }));
      return head;
    });
    fillSort();
    const focused = document.activeElement && document.activeElement.dataset.sort;
    M.byId("heads").replaceChildren(M.element("th", { scope: "col", class: "pick" }, M.element("span", { class: "only-read-aloud", text: "Curve" })), ...heads);
    if (focused) M.byId("heads").querySelector(`[data-sort="${focused}"]`).focus();
  }

  // The same by a list, where there is no room for headings.
  function fillSort() {
    const ways = COLUMNS.flatMap(([key, label]) => [[`${key} down`, `${label} ↓`], [`${key} up`, `${label} ↑`]]);
    const select = M.byId("sort");
    if (!select.children.length) select.replaceChildren(...ways.map(([value, text]) => M.element("option", { value, text })));
    select.value = `${view.sort} ${view.descending ? "down" : "up"}`;
  }

  function pill(state) {
    return M.element("span", { class: "pill", "data-tone": ACTIVE.includes(state) ? "busy" : TONES[state] || null, text: state || "unknown" });
  }

  function progressCell(run) {
    if (run.progress === null) return M.isNumber(run.step) ? [`step ${M.count(run.step)}`] : [];
    const bar = M.element("span", { class: "bar", "aria-hidden": "true" }, M.element("i"));
    bar.style.setProperty("--share", `${100 * run.progress}%`);
    return [bar, run.progress >= 1 ? `${M.count(run.step)} steps` : `${M.count(run.step)} of ${M.count(run.total)}`];
  }

  function nameCell(run) {
    const base = M.settings.base ? `${M.settings.base.split("/").map(encodeURIComponent).join("/")}/` : "./";
    const name = run.page
      ? M.element("a", { class: "run-name", href: `${base}${encodeURIComponent(run.name)}/dashboard.html`, title: run.name, text: M.shortName(run.name) })
      : M.element("span", { class: "run-name", title: `${run.name}\nIt has no page of its own yet.`, text: M.shortName(run.name) });
    return [name, run.note ? M.element("span", { class: "run-note", title: run.note, text: run.note }) : null];
  }

  function rowOf(run) {
    const box = M.element("input", { type: "checkbox", "data-run": run.name, "aria-label": `Show the curve of ${run.name}` });
    const metric = run.bestMetric && run.bestMetric !== "val/loss" ? run.bestMetric : null;
    const cells = [
      M.element("td", { class: "pick plain" }, M.element("label", {}, box, M.element("span", { class: "swatch" }))),
      M.element("td", { class: "plain", "data-label": "Run" }, nameCell(run)),
      M.element("td", { class: "plain" }, pill(run.state)),
      M.element("td", { "data-label": "" }, progressCell(run)),
      M.element("td", { class: "number", "data-label": "Best", title: metric }, M.isNumber(run.best) ? M.number(run.best) : null),
      M.element("td", { class: "number", "data-label": "at step" }, M.isNumber(run.bestStep) ? M.count(run.bestStep) : null),
      M.element("td", { "data-label": "Started", title: M.isNumber(run.created) ? `${M.day(run.created)}, ${M.clock(run.created, true)}` : null }, M.isNumber(run.created) ? M.moment(run.created) : null),
      M.element("td", { class: "number", "data-label": "Took" }, run.elapsed ? M.roughly(run.elapsed) : null),
      M.element("td", { class: "number", "data-label": "Alerts" }, run.alerts ? M.count(run.alerts) : null),
      M.element("td", { "data-label": "" }, run.tags.map((tag) => M.element("span", { class: "tag", title: tag, text: tag }))),
    ];
    return M.element("tr", { class: run.inside ? "inside" : null }, cells);
  }

  // ---- searches: a row that stands for its trials, which follow it once it is opened

  function grouped(some) {
    const trials = new Map();
    for (const run of some.filter((each) => each.search)) {
      if (!trials.has(run.search)) trials.set(run.search, []);
      trials.get(run.search).push(run);
    }
    const told = new Set();
    return some.flatMap((run) => {
      const members = trials.get(run.search) || [];
      run.inside = members.length >= LEAST_TRIALS;
      if (!run.inside) return [run];
      if (told.has(run.search)) return [];
      told.add(run.search);
      return [{ members, name: run.search }, ...(view.open.has(run.search) ? members : [])];
    });
  }

  function searchRow(group) {
    const { name, members } = group;
    const open = view.open.has(name);
    const over = members.filter((run) => !ACTIVE.includes(run.state)).length;
    const best = members.filter((run) => M.isNumber(run.best) && run.bestMetric === "val/loss").sort((one, other) => one.best - other.best)[0];
    const first = members.map((run) => run.created).filter(M.isNumber).sort((one, other) => one - other)[0];
    const base = M.settings.base ? `${M.settings.base.split("/").map(encodeURIComponent).join("/")}/` : "./";
    const took = members.reduce((sum, run) => sum + (run.elapsed || 0), 0);
    const page = (data.search_pages || []).includes(name);
    const title = page ? M.element("a", { class: "run-name", href: `${base}${encodeURIComponent(name)}/dashboard.html`, title: name, text: name }) : M.element("span", { class: "run-name", title: name, text: name });
    const toggle = M.element("button", { type: "button", class: "fold", "data-search": name, "aria-expanded": String(open), "aria-label": `Trials of ${name}`, text: open ? "▾" : "▸" });
    return M.element("tr", { class: "search" },
      M.element("td", { class: "pick plain" }, toggle),
      M.element("td", { class: "plain", "data-label": "Run" }, title, M.element("span", { class: "run-note", text: `search, ${M.count(members.length)} trials` })),
      M.element("td", { class: "plain" }, pill(over < members.length ? "training" : "search")),
      M.element("td", { "data-label": "" }, `${M.count(over)} of ${M.count(members.length)} done`),
      M.element("td", { class: "number", "data-label": "Best" }, best ? M.number(best.best) : null),
      M.element("td", { class: "number", "data-label": "at step" }, best ? M.count(best.bestStep) : null),
      M.element("td", { "data-label": "Started" }, first !== undefined ? M.moment(first) : null),
      M.element("td", { class: "number", "data-label": "Took" }, took ? M.roughly(took) : null),
      M.element("td", { class: "number", "data-label": "Alerts" }, M.count(members.reduce((sum, run) => sum + run.alerts, 0) || null).replace("–", "")),
      M.element("td", { "data-label": "" }));
  }

  function toggleSearch(event) {
    const name = event.target.dataset && event.target.dataset.search;
    if (name === undefined) return;
    if (!view.open.delete(name)) view.open.add(name);
    show();
    [...M.byId("rows").querySelectorAll("[data-search]")].find((each) => each.dataset.search === name)?.focus();
  }

  const facts = (row) => (row.members ? [row.name, view.open.has(row.name), row.members.map(facts)] : [row.name, row.state, row.step, row.total, row.best, row.bestStep, row.alerts, row.tags, row.note, row.page, row.inside, row.elapsed]);

  function showRows() {
    const some = sorted(runs.filter((run) => run.shown));
    const every = grouped(some);
    const rows = every.slice(0, view.rows);
    const text = JSON.stringify([rows.map(facts), new Date().toDateString()]);
    if (text !== texts.rows) {
      texts.rows = text;
      const focused = document.activeElement && document.activeElement.dataset.run;
      M.byId("rows").replaceChildren(...rows.map((row) => (row.members ? searchRow(row) : rowOf(row))));
      if (focused) [...M.byId("rows").querySelectorAll("input")].find((box) => box.dataset.run === focused)?.focus();
    }
    for (const box of M.byId("rows").querySelectorAll("input")) {
      box.checked = chosen.has(box.dataset.run);
      box.parentElement.style.setProperty("--swatch", box.checked ? M.runColour(chosen.get(box.dataset.run)) : "transparent");
    }
    M.byId("table").parentElement.hidden = !rows.length;
    const none = M.byId("no-rows");
    none.hidden = rows.length > 0;
    M.setText(none, runs.length ? "No run fits what you look for." : "There are no runs here.");
    M.setText(M.byId("runs-title"), some.length < runs.length ? `Runs, ${M.count(some.length)} of ${M.count(runs.length)}` : `Runs, ${M.count(runs.length)}`);
    const more = M.byId("more");
    more.hidden = every.length <= view.rows;
    M.setText(more, `Show all ${M.count(every.length)}`);
  }

  function counted(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort((one, other) => other[1] - one[1] || String(one[0]).localeCompare(String(other[0])));
  }

  function showChips() {
    const states = counted(runs.map((run) => run.state));
    const tags = counted(runs.flatMap((run) => run.tags)).slice(0, MOST_TAGS);
    const text = JSON.stringify([states, tags, view.state, view.tag]);
    if (text === texts.chips) return;
    texts.chips = text;
    const chip = (kind, value, count, label) => M.element("button", { class: "chip", type: "button", "aria-pressed": String(view[kind] === value), title: label, onclick: () => {
      view[kind] = view[kind] === value ? "" : value;
      show();
      [...M.byId("states").children].find((each) => each.title === label)?.focus();
    } }, value || "unknown", M.element("b", { text: M.count(count) }));
    M.byId("states").replaceChildren(...states.map(([state, count]) => chip("state", state, count, `Only runs that are ${state}`)), ...tags.map(([tag, count]) => chip("tag", tag, count, `Only runs with the tag ${tag}`)));
  }

  // ---- header, choices, footer

  function fillSelect(select, keys, now) {
    const text = JSON.stringify(keys);
    if (select.dataset.told !== text) {
      select.dataset.told = text;
      select.replaceChildren(...keys.map((key) => M.element("option", { value: key, text: key })));
    }
    select.value = now;
    select.disabled = keys.length < 2;
  }

  function showChoices() {
    const curves = Object.keys(data.curves || {});
    const metrics = data.metrics.map((metric) => metric.key);
    if (!curves.includes(M.curveView.metric)) M.curveView.metric = curves[0] || "";
    if (!metrics.includes(M.parallelView.metric)) M.parallelView.metric = metrics[0] || "";
    fillSelect(M.byId("curve-metric"), curves, M.curveView.metric);
    fillSelect(M.byId("result-metric"), metrics, M.parallelView.metric);
  }

  function showHeader() {
    document.title = data.title;
    M.setText(M.byId("title"), data.title);
    const going = runs.filter((run) => ACTIVE.includes(run.state)).length;
    const best = runs.filter((run) => M.isNumber(run.best) && run.bestMetric === "val/loss").sort((one, other) => one.best - other.best)[0];
    const words = [`${M.count(data.num_runs)} ${data.num_runs === 1 ? "run" : "runs"}`, going ? `${M.count(going)} going on` : null, best ? `lowest val/loss ${M.number(best.best)} by ${M.shortName(best.name)}` : null];
    M.setText(M.byId("summary"), words.filter(Boolean).join(" · "));
    M.setText(M.byId("written"), `Written ${M.moment(data.written, true)}${going && !data.live ? "; runs go on since: write it anew with musictrain runs overview, or let --watch do so." : "."}`);
    const left = M.byId("left-out");
    left.hidden = !data.left_out.length;
    M.setText(left, `Left out so that this page stays light: ${data.left_out.join("; ")}.`);
  }

  function show() {
    if (!data) return;
    showChoices();
    chooseFirst();
    showHeader();
    for (const run of runs) run.shown = fits(run);
    // The axes have to be known before their ranges can be asked.
    const narrow = () => {
      for (const run of runs) run.shown = fits(run) && M.inRanges(run);
    };
    narrow();
    M.showParallel(data, runs, chosenRuns(), show);
    narrow();
    M.showParallel(data, runs, chosenRuns(), show);
    M.showAxisChoices(data, show);
    M.showCurves(data, chosenRuns());
    showChips();
    showHeads();
    showRows();
  }

  M.overview = function (fresh) {
    received += 1;
    if (!fresh || fresh.schema !== SCHEMA) {
      tell("schema", "This page and its data were written by different versions of musictrain. Write both anew:", "musictrain runs overview");
      return;
    }
    tell("schema", "");
    if (data && fresh.written === data.written) return;
    data = fresh;
    takeRuns(fresh);
    if (document.readyState !== "loading") show();
  };

  // ---- messages: what is wrong, and what to do, one at a time

  const messages = new Map();

  function tell(kind, words, command) {
    if (words) messages.set(kind, [words, command]);
    else if (!messages.delete(kind)) return;
    const host = M.byId("message");
    const first = messages.values().next().value;
    host.hidden = !first;
    if (first) host.replaceChildren(M.element("span", { text: `${first[0]} ` }), M.element("code", { text: first[1] }));
  }

  // ---- loading

  function load() {
    window.clearTimeout(timer);
    const before = received;
    M.addScript(
      `${encodeURIComponent(M.settings.data)}?t=${Date.now()}`,
      () => {
        tell("missing", "");
        tell("corrupt", received === before ? `The data file ${M.settings.data} cannot be understood. Write it anew:` : "", "musictrain runs overview");
        next();
      },
      () => {
        tell("missing", `There is no data file beside this page: ${M.settings.data} is missing. Write both anew:`, "musictrain runs overview");
        next();
      },
    );
  }

  function next() {
    window.clearTimeout(timer);
    const going = runs.some((run) => ACTIVE.includes(run.state));
    timer = window.setTimeout(load, going && !document.hidden ? EVERY_MS : EVERY_MS_QUIET);
  }

  function loadPlotly() {
    const name = M.settings.plotly;
    const give = () => tell("plotly", `The curves need ${name || "plotly.js"}, which is ${name ? "missing beside this page" : "not installed"}. Everything else is here; to see the curves:`, "pip install plotly && musictrain runs overview");
    if (!name) return give();
    M.addScript(encodeURIComponent(name), () => {
      tell("plotly", "");
      show();
    }, give);
  }

  // ---- what a reader can do

  function toggle(button, key) {
    M.byId(button).addEventListener("click", (event) => {
      M.curveView[key] = !M.curveView[key];
      event.currentTarget.setAttribute("aria-pressed", String(M.curveView[key]));
      show();
    });
  }

  function listenToReader() {
    M.byId("theme").addEventListener("click", M.switchTheme);
    M.onTheme(show);
    toggle("log-x", "logX");
    toggle("log-y", "logY");
    M.byId("curve-metric").addEventListener("change", (event) => {
      M.curveView.metric = event.target.value;
      show();
    });
    M.byId("result-metric").addEventListener("change", (event) => {
      M.parallelView.metric = event.target.value;
      show();
    });
    M.byId("result-part").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      M.parallelView.part = button.dataset.part;
      for (const each of M.byId("result-part").children) each.setAttribute("aria-pressed", String(each === button));
      show();
    });
    M.byId("clear-ranges").addEventListener("click", M.clearRanges);
    M.byId("clear-chosen").addEventListener("click", () => {
      chosen.clear();
      show();
    });
    M.byId("search").addEventListener("input", (event) => {
      view.query = event.target.value;
      show();
    });
    M.byId("heads").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const key = button.dataset.sort;
      const downFirst = ["created", "progress", "alerts", "elapsed"].includes(key);
      view.descending = view.sort === key ? !view.descending : downFirst;
      view.sort = key;
      show();
    });
    M.byId("sort").addEventListener("change", (event) => {
      const [key, way] = event.target.value.split(" ");
      [view.sort, view.descending] = [key, way === "down"];
      show();
    });
    M.byId("rows").addEventListener("change", (event) => {
      choose(event.target.dataset.run, event.target.checked);
      show();
    });
    M.byId("rows").addEventListener("click", toggleSearch);
    M.byId("more").addEventListener("click", () => {
      view.rows = Infinity;
      show();
    });
    window.addEventListener("resize", show);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) load();
    });
  }

  function start() {
    listenToReader();
    loadPlotly();
    load();
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})(window.musictrain);
