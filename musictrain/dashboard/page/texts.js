// Settings and log: tables and lines with a search, filled again only when their content changed.
"use strict";

(function (M) {
  const MOST_ROWS = 1000;

  function searchField(label, listener) {
    return M.element("input", { class: "field", type: "search", placeholder: label, "aria-label": label, autocomplete: "off", spellcheck: "false", oninput: listener });
  }

  function panel(title, id, ...extras) {
    const heading = M.element("h3", { text: title });
    const body = M.element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title, id });
    const node = M.element("div", { class: "card panel" }, M.element("div", { class: "panel-head" }, heading, ...extras), body);
    return { node, heading, body };
  }

  function table(heads, rows, classes) {
    return M.element(
      "table",
      { class: "settings-table" },
      M.element("thead", {}, M.element("tr", {}, heads.map((head) => M.element("th", { scope: "col", text: head })))),
      M.element("tbody", {}, rows.map((row) => M.element("tr", {}, row.map((cell, place) => M.element(place ? "td" : "th", { scope: place ? null : "row", class: classes[place], text: cell }))))),
    );
  }

  // ---- settings

  const settings = { made: false, text: "", query: "" };

  function makeSettings(host) {
    settings.made = true;
    settings.note = M.element("p", { class: "empty" });
    settings.note.style.marginBottom = "12px";
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
    const { data } = settings;
    const rows = matching(data.settings, settings.query);
    const count = rows.length < data.settings.length ? `${M.count(rows.length)} of ${M.count(data.settings.length)}` : M.count(data.settings.length);
    M.setText(settings.all.heading, `Configuration, ${count} ${data.settings.length === 1 ? "setting" : "settings"}`);
    settings.all.body.replaceChildren(rows.length ? table(["Setting", "Value"], rows.slice(0, MOST_ROWS), []) : M.element("p", { class: "empty pad", text: data.settings.length ? `No setting holds “${settings.query}”.` : "" }));
  }

  M.showSettings = function (host, data) {
    if (!settings.made) makeSettings(host);
    const text = JSON.stringify([data.settings, data.changes, data.environment, data.parents, data.parent]);
    if (text === settings.text) return;
    settings.text = text;
    settings.data = data;
    const parents = data.parents || [];
    let note = parents.length ? `This run was ${parents.join("; ")}.` : "";
    if (data.parent && !data.changes.length) note += ` Its configuration is the same as that of ${data.parent}.`;
    if (!data.settings.length) note += " There is no config.yaml in this run: a RunRecorder writes it, if it is given the configuration.";
    M.setText(settings.note, note.trim());
    settings.note.hidden = !note;
    settings.changes.node.hidden = !data.changes.length;
    M.setText(settings.changes.heading, `Changed since ${data.parent}`);
    settings.changes.body.replaceChildren(table(["Setting", "Then", "Now"], data.changes, [null, "was", "now"]));
    settings.all.node.hidden = !data.settings.length;
    settings.environment.node.hidden = !data.environment.length;
    settings.environment.body.replaceChildren(table(["Fact", "Value"], data.environment, []));
    fillSettings();
  };

  // ---- log

  const log = { made: false, text: "", query: "", least: "INFO", source: "log" };
  const ORDER = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

  function makeLog(host) {
    log.made = true;
    const choose = (name, value, buttons) => {
      log[name] = value;
      for (const button of buttons.children) button.setAttribute("aria-pressed", String(button.dataset.value === value));
      fillLog(true);
    };
    const choices = (name, label, pairs) => {
      const buttons = M.element("div", { class: "choice", role: "group", "aria-label": label });
      for (const [value, word] of pairs) {
        buttons.append(M.element("button", { type: "button", "data-value": value, "aria-pressed": String(log[name] === value), text: word, onclick: () => choose(name, value, buttons) }));
      }
      return buttons;
    };
    log.sources = choices("source", "What is shown", [["log", "Log"], ["events", "Events"]]);
    log.levels = choices("least", "Least level", [["INFO", "All"], ["WARNING", "Warnings"], ["ERROR", "Errors"]]);
    log.search = searchField("Search log", () => {
      log.query = log.search.value;
      fillLog(false);
    });
    log.panel = panel("Last lines", "log-lines", M.element("div", { class: "filters" }, log.sources, log.levels, log.search));
    log.list = M.element("ol", { class: "lines" });
    log.panel.body.append(log.list);
    host.replaceChildren(log.panel.node);
  }

  function rowsOfLog() {
    if (log.source === "events") return log.data.events.map((each) => ({ when: M.moment(each.time, true), level: "", what: each.event, text: each.text }));
    return log.data.log.map(([when, level, text]) => ({ when: when.replace("T", " ").replace(/[,.]\d+$/, "").slice(5), level, what: level === "INFO" || level === "DEBUG" ? level.toLowerCase() : level, text }));
  }

  function fillLog(toEnd) {
    const every = rowsOfLog();
    const query = log.query.toLowerCase();
    const least = ORDER.indexOf(log.least);
    const rows = every.filter((row) => (log.source === "events" || ORDER.indexOf(row.level) >= least) && (!query || `${row.what} ${row.text}`.toLowerCase().includes(query)));
    const atEnd = log.panel.body.scrollHeight - log.panel.body.scrollTop - log.panel.body.clientHeight < 30;
    log.levels.hidden = log.source === "events";
    const what = log.source === "events" ? "events" : "lines";
    M.setText(log.panel.heading, rows.length === every.length ? `Last ${M.count(rows.length)} ${what}` : `${M.count(rows.length)} of the last ${M.count(every.length)} ${what}`);
    log.list.replaceChildren(
      ...rows.map((row, place) =>
        M.element(
          "li",
          { "data-level": row.level },
          M.element("span", { class: "when", text: row.when }),
          // A line that goes on with the one before it needs no level of its own.
          M.element("span", { class: "what", text: row.when || !place ? row.what : "" }),
          M.element("span", { class: "text", text: row.text }),
        ),
      ),
    );
    if (!rows.length) log.list.append(M.element("li", {}, M.element("span", { class: "nothing quiet", text: every.length ? "Nothing here fits the filter." : "Nothing has been written yet." })));
    if (toEnd || atEnd || !log.filled) log.panel.body.scrollTop = log.panel.body.scrollHeight;
    log.filled = true;
  }

  M.showLog = function (host, data) {
    if (!log.made) makeLog(host);
    const text = JSON.stringify([data.log, data.events]);
    if (text === log.text) return;
    log.text = text;
    log.data = data;
    fillLog(false);
  };
})(window.musictrain);
