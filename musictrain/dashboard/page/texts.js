// Settings and log: tables and lines with a search, filled again only when their content changed.
"use strict";

(function (M) {
  const MOST_ROWS = 1000;

  function searchField(label, listener) {
    const quiet = { autocomplete: "off", spellcheck: "false" };
    return M.element("input", { class: "field", type: "search", placeholder: label, "aria-label": label, ...quiet, oninput: listener });
  }

  function panel(title, id, ...extras) {
    const heading = M.element("h3", { text: title });
    const body = M.element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title, id });
    const node = M.element("div", { class: "card panel" }, M.element("div", { class: "panel-head" }, heading, ...extras), body);
    return { node, heading, body };
  }

  function table(heads, rows, classes = []) {
    const cell = (text, place) => M.element(place ? "td" : "th", { scope: place ? null : "row", class: classes[place], text });
    const head = M.element("tr", {}, heads.map((text) => M.element("th", { scope: "col", text })));
    const lines = rows.map((row) => M.element("tr", {}, row.map(cell)));
    return M.element("table", { class: "settings-table" }, M.element("thead", {}, head), M.element("tbody", {}, lines));
  }

  // ---- settings

  const settings = { made: false, text: "", query: "", data: null };

  function makeSettings(host) {
    settings.made = true;
    settings.note = M.element("p", { class: "empty descent" });
    settings.changes = panel("Changed", "settings-changes");
    settings.search = searchField("Search settings", () => {
      settings.query = settings.search.value;
      fillSettings();
    });
    settings.all = panel("Configuration", "settings-all", settings.search);
    settings.environment = panel("Where it runs", "settings-environment");
    host.replaceChildren(settings.note, settings.changes.node, settings.all.node, settings.environment.node);
  }

  function matching(rows, query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return rows.filter((row) => words.every((word) => row.some((cell) => cell.toLowerCase().includes(word))));
  }

  function fillSettings() {
    const every = settings.data.settings;
    const rows = matching(every, settings.query);
    const count = rows.length < every.length ? `${M.count(rows.length)} of ${M.count(every.length)}` : M.count(every.length);
    M.setText(settings.all.heading, `Configuration, ${count} ${every.length === 1 ? "setting" : "settings"}`);
    const none = M.element("p", { class: "empty pad", text: `No setting holds “${settings.query}”.` });
    settings.all.body.replaceChildren(rows.length ? table(["Setting", "Value"], rows.slice(0, MOST_ROWS)) : none);
  }

  function descent(data) {
    const told = data.parents.length ? [`This run was ${data.parents.join("; ")}.`] : [];
    if (data.parent && !data.changes.length) told.push(`Its configuration is the same as that of ${data.parent}.`);
    if (!data.settings.length) told.push("There is no config.yaml in this run: a RunRecorder writes it, if it is given the configuration.");
    return told.join(" ");
  }

  M.showSettings = function (host, data) {
    if (!settings.made) makeSettings(host);
    const text = JSON.stringify([data.settings, data.changes, data.environment, data.parents, data.parent]);
    if (text === settings.text) return;
    Object.assign(settings, { text, data });
    M.setText(settings.note, descent(data));
    settings.note.hidden = !descent(data);
    settings.changes.node.hidden = !data.changes.length;
    M.setText(settings.changes.heading, `Changed since ${data.parent}`);
    settings.changes.body.replaceChildren(table(["Setting", "Then", "Now"], data.changes, [null, "was", "now"]));
    settings.all.node.hidden = !data.settings.length;
    settings.environment.node.hidden = !data.environment.length;
    settings.environment.body.replaceChildren(table(["Fact", "Value"], data.environment));
    fillSettings();
  };

  // ---- log

  const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
  const SOURCES = { log: "Log", events: "Events" };
  const LEAST = { INFO: "All", WARNING: "Warnings", ERROR: "Errors" };
  const log = { made: false, text: "", query: "", least: "INFO", source: "log", data: null, filled: false };

  function choices(name, label, words) {
    const group = M.element("div", { class: "choice", role: "group", "aria-label": label });
    for (const [value, word] of Object.entries(words)) {
      const button = M.element("button", { type: "button", "aria-pressed": String(log[name] === value), text: word });
      button.addEventListener("click", () => {
        log[name] = value;
        for (const each of group.children) each.setAttribute("aria-pressed", String(each === button));
        fillLog(true);
      });
      group.append(button);
    }
    return group;
  }

  function makeLog(host) {
    log.made = true;
    log.levels = choices("least", "Least level", LEAST);
    log.search = searchField("Search log", () => {
      log.query = log.search.value.toLowerCase();
      fillLog(false);
    });
    const filters = M.element("div", { class: "filters" }, choices("source", "What is shown", SOURCES), log.levels, log.search);
    log.panel = panel("Last lines", "log-lines", filters);
    log.list = M.element("ol", { class: "lines" });
    log.panel.body.append(log.list);
    host.replaceChildren(log.panel.node);
  }

  // The date without its year, the time without its fractions.
  const shortTime = (when) => when.replace("T", " ").replace(/[,.]\d+$/, "").slice(5);

  function rowsOfLog() {
    if (log.source === "events") {
      return log.data.events.map((each) => ({ when: M.moment(each.time, true), level: "", what: each.event, text: each.text }));
    }
    const quiet = (level) => (LEVELS.indexOf(level) < 2 ? level.toLowerCase() : level);
    return log.data.log.map(([when, level, text]) => ({ when: shortTime(when), level, what: quiet(level), text }));
  }

  function fits(row) {
    const loud = log.source === "events" || LEVELS.indexOf(row.level) >= LEVELS.indexOf(log.least);
    return loud && `${row.what} ${row.text}`.toLowerCase().includes(log.query);
  }

  function lineItem(row, place) {
    // A line that goes on with the one before it needs no level of its own.
    const what = row.when || !place ? row.what : "";
    const parts = Object.entries({ when: row.when, what, text: row.text });
    const spans = parts.map(([name, text]) => M.element("span", { class: name, text }));
    return M.element("li", { "data-level": row.level }, spans);
  }

  function fillLog(toEnd) {
    const { body } = log.panel;
    const every = rowsOfLog();
    const rows = every.filter(fits);
    const atEnd = body.scrollHeight - body.scrollTop - body.clientHeight < 30;
    const what = log.source === "events" ? "events" : "lines";
    const few = rows.length < every.length;
    log.levels.hidden = log.source === "events";
    const counted = few ? `${M.count(rows.length)} of the last ${M.count(every.length)}` : `Last ${M.count(rows.length)}`;
    M.setText(log.panel.heading, `${counted} ${what}`);
    const why = few ? "Nothing here fits the filter." : "Nothing has been written yet.";
    const none = M.element("span", { class: "nothing quiet", text: why });
    log.list.replaceChildren(...(rows.length ? rows.map(lineItem) : [M.element("li", {}, none)]));
    if (toEnd || atEnd || !log.filled) body.scrollTop = body.scrollHeight;
    log.filled = true;
  }

  M.showLog = function (host, data) {
    if (!log.made) makeLog(host);
    const text = JSON.stringify([data.log, data.events]);
    if (text === log.text) return;
    Object.assign(log, { text, data });
    fillLog(false);
  };
})(window.musictrain);
