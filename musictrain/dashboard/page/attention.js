// What needs attention: how the run ended if it ended badly, or why it went back, its alerts and its vetoed steps, newest first. A click leads to the step.
"use strict";

(function (M) {
  const FIRST_ALERTS = 5;
  const MOST_VETOED = 4;
  const ENDINGS = {
    failed: "The run failed.",
    interrupted: "The run was interrupted.",
    paused: "The run rests.",
    stopped: "A rule ended the run before its time.",
  };

  let most = FIRST_ALERTS;
  let endingText = "";
  let alertsText = "";
  let vetoedText = "";

  // A command at the end of an advice stands out, to be copied.
  function withCommand(text) {
    const place = text.search(/musictrain [a-z]/);
    return place < 0 ? [text] : [text.slice(0, place), M.element("code", { text: text.slice(place) })];
  }

  // Whether there was an ending, or a going back, to tell of.
  function showEnding(data) {
    const state = M.stateOf(data);
    const status = data.status || {};
    const silence = `Nothing has been heard of this run for ${M.roughly(M.silentFor(data))}: its process is gone, or its machine sleeps.`;
    const ended = state === "stale" ? silence : ENDINGS[state];
    const told = ended || (status.reason && "The run went back, and goes on from an earlier version.");
    const host = M.byId("ending");
    host.hidden = !told;
    host.dataset.tone = M.toneOf(state);
    const goOn = ended && state !== "stopped" ? `To go on where it stopped: musictrain resume ${data.run}` : "";
    const advice = status.advice || goOn;
    const text = JSON.stringify([told, status.reason, advice]);
    if (text !== endingText) {
      endingText = text;
      const reason = status.reason ? [M.element("div", { text: status.reason })] : [];
      host.replaceChildren(M.element("strong", { text: told || "" }), ...reason, M.element("div", {}, ...withCommand(advice)));
    }
    return Boolean(told);
  }

  function alertItem(alert, data) {
    const jumps = M.isNumber(alert.step);
    const often = alert.count > 1 ? `${M.count(alert.count)} times, last ` : "";
    const many = data.status && data.status.world_size > 1;
    const rank = many && M.isNumber(alert.rank) ? `rank ${alert.rank}, ` : "";
    const step = jumps ? [M.element("b", { text: `step ${M.count(alert.step)}` }), ", "] : [];
    const level = { WARNING: "Warning", CRITICAL: "Critical" }[alert.level] || "Error";
    const advice = alert.advice ? M.element("span", { class: "advice", text: alert.advice }) : null;
    const children = [
      M.element("span", { class: "level", "data-level": alert.level, text: level }),
      M.element("span", { class: "words" }, M.element("span", { text: alert.message || alert.kind }), advice),
      M.element("span", { class: "where" }, often, rank, ...step, M.moment(alert.time)),
    ];
    if (!jumps) return M.element("li", {}, M.element("div", { class: "alert" }, children));
    const how = { class: "alert", type: "button", title: "Show this step in every chart", onclick: () => M.jump(alert.step) };
    return M.element("li", {}, M.element("button", how, children));
  }

  M.jump = function (step, section = "learning") {
    M.plot.jump(step);
    M.byId(section).scrollIntoView({ behavior: M.calm() ? "auto" : "smooth", block: "start" });
  };

  M.showAttention = function (data) {
    const badly = showEnding(data);
    const alerts = data.alerts || [];
    const text = JSON.stringify([alerts, most, badly, new Date().toDateString()]);
    if (text === alertsText) return;
    alertsText = text;
    M.byId("alerts").replaceChildren(...alerts.slice(0, most).map((alert) => alertItem(alert, data)));
    const none = M.byId("no-alerts");
    none.hidden = alerts.length > 0 || badly;
    M.setText(none, "Nothing needs your attention.");
    showMore(data, alerts);
    const badge = M.byId("nav-attention");
    badge.hidden = !data.num_alerts;
    badge.dataset.tone = alerts.some((alert) => alert.level !== "WARNING") ? "bad" : "warn";
    M.setText(badge, M.count(data.num_alerts));
  };

  // Above the music: which steps are never called best, and why, newest first.
  M.showVetoed = function (data) {
    const vetoed = data.vetoed || [];
    const text = JSON.stringify(vetoed);
    if (text === vetoedText) return;
    vetoedText = text;
    const host = M.byId("vetoed");
    host.hidden = !vetoed.length;
    const newest = vetoed.slice(-MOST_VETOED).reverse();
    const count = vetoed.length === 1 ? "One step is" : `${M.count(vetoed.length)} steps are`;
    const more = vetoed.length > newest.length ? `; the last ${M.count(newest.length)}:` : ":";
    const items = newest.map(([step, why]) => {
      const how = { type: "button", title: "Show this step in every chart", onclick: () => M.jump(step, "music") };
      return M.element("li", {}, M.element("button", how, M.element("b", { text: `step ${M.count(step)}` }), ` ${why}`));
    });
    const words = M.element("div", { text: `${count} never called best, whatever the loss, because of the music${more}` });
    host.replaceChildren(words, M.element("ul", {}, items));
  };

  function showMore(data, alerts) {
    const more = M.byId("more-alerts");
    more.hidden = alerts.length <= FIRST_ALERTS;
    M.setText(more, alerts.length > most ? `Show all ${M.count(alerts.length)}` : "Show fewer");
    more.setAttribute("aria-expanded", String(alerts.length <= most));
    more.onclick = () => {
      most = most > FIRST_ALERTS ? FIRST_ALERTS : Infinity;
      M.showAttention(data);
    };
  }
})(window.musictrain);
