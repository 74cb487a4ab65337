// The live page: loads the data again and again, and shows the header, what needs attention, and every section. Loaded last.
"use strict";

(function (M) {
  const SCHEMA = 1;
  const EVERY_MS = 2000;
  const EVERY_MS_ENDED = 20000;
  const EVERY_MS_HIDDEN = 30000;
  const SILENCE_SECONDS = 60;
  const FIRST_ALERTS = 5;
  const ACTIVE = ["starting", "training", "validating", "sampling", "saving"];
  const TONES = { finished: "good", stopped: "warn", failed: "bad", interrupted: "warn", stale: "bad", unknown: "" };
  const WORDS = { stopped: "stopped by a rule", unknown: "no heartbeat", stale: "stale" };

  let data = null;
  let received = 0;
  let timer = 0;
  let shownAlerts = FIRST_ALERTS;
  let listening = false;
  let listenText = "";
  const texts = {};

  // ---- what the run's state is, also if nobody writes any more

  function silentFor() {
    return data && data.status ? Date.now() / 1000 - Number(data.status.updated) : 0;
  }

  function stateNow() {
    if (!data) return "unknown";
    if (ACTIVE.includes(data.state) && data.status && silentFor() > SILENCE_SECONDS) return "stale";
    return data.state;
  }

  const toneOf = (state) => (ACTIVE.includes(state) ? "busy" : (TONES[state] ?? ""));

  // ---- header

  function fact(label, value, more) {
    return [label, value, more || ""];
  }

  function lastOf(key) {
    const curve = M.plot.curve(key);
    return curve && curve.values.length ? { value: curve.values[curve.values.length - 1], step: curve.steps[curve.steps.length - 1] } : null;
  }

  function factsNow(state) {
    const status = data.status || {};
    const facts = [];
    const total = M.isNumber(status.total) ? status.total : null;
    facts.push(fact("Step", M.count(data.step), total ? `of ${M.count(total)}, ${M.percent(data.step / total)}` : "no fixed number of steps"));
    const loss = lastOf("train/loss") || lastOf("train_loss") || lastOf("loss");
    facts.push(fact("Training loss", loss ? M.number(loss.value) : "–", loss && loss.step !== data.step ? `at step ${M.count(loss.step)}` : ""));
    const validation = lastOf("val/loss") || lastOf("val_loss");
    facts.push(fact("Validation loss", validation ? M.number(validation.value) : "–", validation ? `at step ${M.count(validation.step)}` : "none yet"));
    const best = data.best && data.best.metric ? data.best : null;
    facts.push(fact(best && best.metric !== "val/loss" ? `Best ${best.metric}` : "Best", best ? M.number(Number(best.value)) : "–", best && M.isNumber(best.step) ? `at step ${M.count(best.step)}` : ""));
    const speed = M.isNumber(status.tokens_per_second) ? status.tokens_per_second : (lastOf("speed/tokens_per_second") || lastOf("train/tokens_per_second") || {}).value;
    facts.push(fact("Tokens per second", M.count(speed), memory()));
    facts.push(fact("Trained for", M.duration(trained(status)), started(status)));
    facts.push(ACTIVE.includes(state) ? timeLeft(status) : ended(state, status));
    return facts;
  }

  function memory() {
    const most = lastOf("speed/memory_peak_mib");
    return most && Number.isFinite(most.value) ? `${M.bytes(most.value * 1048576)} of memory` : "";
  }

  function trained(status) {
    if (M.isNumber(status.elapsed_seconds) && status.elapsed_seconds > 0) return status.elapsed_seconds;
    return M.isNumber(data.first_time) && M.isNumber(data.last_time) ? data.last_time - data.first_time : null;
  }

  function started(status) {
    const time = M.isNumber(status.first_started) && status.first_started > 0 ? status.first_started : data.first_time;
    return M.isNumber(time) ? `since ${M.moment(time)}` : "";
  }

  function timeLeft(status) {
    if (!M.isNumber(status.left_seconds)) return fact("Time left", "–", "not known yet");
    const bounds = M.isNumber(status.left_low) && M.isNumber(status.left_high) ? `${M.roughly(status.left_low)} to ${M.roughly(status.left_high)}` : "";
    const clock = M.isNumber(status.ends_at) ? `ends ${M.moment(status.ends_at)}` : "";
    return fact("Time left", M.duration(status.left_seconds), [bounds, clock].filter(Boolean).join(", "));
  }

  function ended(state, status) {
    if (state === "stale") return fact("Last sign of life", `${M.duration(silentFor())} ago`, M.moment(status.updated));
    return fact("Ended", M.isNumber(status.ended) ? M.moment(status.ended) : "–", M.isNumber(status.ended) ? M.day(status.ended) : "");
  }

  function showHeader() {
    const state = stateNow();
    const tone = toneOf(state);
    const short = M.shortName(data.run);
    M.setText(M.byId("name"), short);
    const attempt = data.status && data.status.attempt > 1 ? `attempt ${M.count(data.status.attempt)}` : "";
    M.setText(M.byId("folder"), data.run);
    M.setText(M.byId("attempt"), attempt && ` · ${attempt}`);
    showTags();
    M.setText(M.byId("note"), data.note);
    M.byId("note").hidden = !data.note;
    const pill = M.byId("state");
    M.setText(pill, WORDS[state] || state);
    pill.dataset.tone = tone;
    pill.title = state === "stale" ? "The run says that it goes on, but nobody has heard of it for a while" : "";
    showProgress(state, tone);
    showFacts(factsNow(state));
    document.title = `${progressWords()}${short} · ${WORDS[state] || state}`;
  }

  function progressWords() {
    const total = data.status && data.status.total;
    return M.isNumber(total) && total > 0 && ACTIVE.includes(stateNow()) ? `${M.percent(data.step / total)} ` : "";
  }

  function showTags() {
    const text = JSON.stringify(data.tags);
    if (text === texts.tags) return;
    texts.tags = text;
    M.byId("tags").replaceChildren(...data.tags.map((tag) => M.element("span", { class: "tag", text: tag })));
  }

  function showProgress(state, tone) {
    const total = data.status && data.status.total;
    const share = state === "finished" ? 1 : M.isNumber(total) && total > 0 ? Math.min(1, data.step / total) : 0;
    const progress = M.byId("progress");
    progress.dataset.tone = tone;
    progress.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    M.byId("bar").style.width = `${100 * share}%`;
  }

  function showFacts(facts) {
    const host = M.byId("facts");
    if (host.children.length !== facts.length) {
      host.replaceChildren(...facts.map(() => M.element("div", {}, M.element("dt"), M.element("dd", {}, M.element("span"), M.element("small")))));
    }
    facts.forEach(([label, value, more], place) => {
      const node = host.children[place];
      M.setText(node.querySelector("dt"), label);
      M.setText(node.querySelector("dd span"), value);
      M.setText(node.querySelector("dd small"), more);
    });
  }

  // ---- attention

  function showEnding() {
    const state = stateNow();
    const status = data.status || {};
    const told = {
      failed: "The run failed.",
      interrupted: "The run was interrupted.",
      stopped: "A rule ended the run before its time.",
      stale: `Nothing has been heard of this run for ${M.roughly(silentFor())}: its process is gone, or its machine sleeps.`,
    }[state];
    const host = M.byId("ending");
    host.hidden = !told;
    host.dataset.tone = toneOf(state);
    const advice = status.advice || (state === "stale" || state === "interrupted" || state === "failed" ? `To go on where it stopped: musictrain resume ${data.run}` : "");
    const text = JSON.stringify([told, status.reason, advice]);
    if (text === texts.ending) return told;
    texts.ending = text;
    host.replaceChildren(M.element("strong", { text: told || "" }), status.reason ? M.element("div", { text: status.reason }) : "", M.element("div", {}, ...withCommand(advice)));
    return told;
  }

  // A command at the end of an advice stands out, to be copied.
  function withCommand(text) {
    const place = text.search(/musictrain [a-z]/);
    return place < 0 ? [text] : [text.slice(0, place), M.element("code", { text: text.slice(place) })];
  }

  function alertItem(alert) {
    const level = alert.level === "WARNING" ? "Warning" : alert.level === "CRITICAL" ? "Critical" : "Error";
    const often = alert.count > 1 ? `${M.count(alert.count)} times, last ` : "";
    const rank = M.isNumber(alert.rank) && data.status && data.status.world_size > 1 ? `rank ${alert.rank}, ` : "";
    const jumps = M.isNumber(alert.step);
    const children = [
      M.element("span", { class: "level", "data-level": alert.level, text: level }),
      M.element("span", { class: "words" }, M.element("span", { text: alert.message || alert.kind }), alert.advice ? M.element("span", { class: "advice", text: alert.advice }) : null),
      M.element("span", { class: "where" }, often, rank, jumps ? M.element("b", { text: `step ${M.count(alert.step)}` }) : null, jumps ? ", " : null, M.moment(alert.time)),
    ];
    const title = jumps ? "Show this step in every chart" : null;
    const node = jumps ? M.element("button", { class: "alert", type: "button", title, onclick: () => jump(alert.step) }, children) : M.element("div", { class: "alert" }, children);
    return M.element("li", {}, node);
  }

  function jump(step) {
    M.plot.jump(step);
    M.byId("learning").scrollIntoView({ behavior: M.calm() ? "auto" : "smooth", block: "start" });
  }

  function showAttention() {
    const ending = showEnding();
    const alerts = data.alerts || [];
    const text = JSON.stringify([alerts, shownAlerts, Boolean(ending), new Date().toDateString()]);
    if (text === texts.alerts) return;
    texts.alerts = text;
    M.byId("alerts").replaceChildren(...alerts.slice(0, shownAlerts).map(alertItem));
    const none = M.byId("no-alerts");
    none.hidden = alerts.length > 0 || Boolean(ending);
    M.setText(none, "Nothing needs your attention.");
    const more = M.byId("more-alerts");
    more.hidden = alerts.length <= FIRST_ALERTS;
    M.setText(more, alerts.length > shownAlerts ? `Show all ${M.count(alerts.length)}` : "Show fewer");
    more.setAttribute("aria-expanded", String(alerts.length <= shownAlerts));
    const badge = M.byId("nav-attention");
    badge.hidden = !data.num_alerts;
    badge.dataset.tone = alerts.some((alert) => alert.level !== "WARNING") ? "bad" : "warn";
    M.setText(badge, M.count(data.num_alerts));
  }

  // ---- machine

  function showTiles() {
    const tiles = [];
    const add = (label, key, say) => {
      const last = lastOf(key);
      if (last && Number.isFinite(last.value)) tiles.push([label, say(last.value)]);
    };
    add("Tokens per second", "speed/tokens_per_second", M.count);
    add("MFU, share of the peak", "speed/mfu", (share) => M.percent(share, share < 0.1 ? 1 : 0));
    add("Waiting for data", "speed/data_wait", (share) => M.percent(share, 1));
    add("Memory, at most", "speed/memory_peak_mib", (mib) => M.bytes(mib * 1048576));
    if (data.status && data.status.world_size > 1) tiles.push(["Processes", M.count(data.status.world_size)]);
    if (data.status && data.status.host) tiles.push(["Machine", data.status.host]);
    const host = M.byId("tiles");
    const text = JSON.stringify(tiles);
    if (text === texts.tiles) return;
    texts.tiles = text;
    host.replaceChildren(...tiles.map(([label, value]) => M.element("li", { class: "card tile" }, M.element("span", { text: label }), M.element("b", { text: value }))));
    host.hidden = !tiles.length;
  }

  // ---- listen: another file brings the section

  function showListen() {
    const section = M.sections.listen;
    const told = data.listen;
    const text = JSON.stringify(told);
    if (!section || !told || text === listenText) return;
    listenText = text;
    const body = M.byId("listen-body");
    if (!listening) section.init(body, { run: data.run, jump, live: Boolean(M.settings.live), element: M.element });
    listening = true;
    section.update(told);
    // The section hides itself while there is nothing to hear.
    M.byId("empty-listen").hidden = !body.hidden;
  }

  // ---- everything

  function guarded(name, show) {
    try {
      show();
    } catch (error) {
      // One section that cannot be shown must not take the others with it.
      console.warn(`The section ${name} could not be shown:`, error);
    }
  }

  function show() {
    guarded("charts", () => M.plot.take(data));
    guarded("header", showHeader);
    guarded("attention", showAttention);
    guarded("machine", showTiles);
    guarded("listen", showListen);
    guarded("settings", () => M.showSettings(M.byId("settings-body"), data));
    guarded("log", () => M.showLog(M.byId("log-body"), data));
    guarded("footer", showFooter);
    for (const button of M.byId("axis").children) button.disabled = !M.plot.has(button.dataset.axis);
  }

  function showFooter() {
    M.setText(M.byId("written"), M.settings.live ? `Written ${M.moment(data.written, true)}.` : `Report of ${M.day(data.written)}, ${M.clock(data.written)}.`);
    const left = M.byId("left-out");
    left.hidden = !data.left_out.length;
    M.setText(left, `Left out so that this page stays light: ${data.left_out.join("; ")}.`);
  }

  M.update = function (fresh) {
    received += 1;
    if (!fresh || fresh.schema !== SCHEMA) {
      tell("schema", `This page and its data were written by different versions of musictrain. Write both anew:`, `musictrain report ${M.settings.run}`);
      return;
    }
    tell("schema", "");
    if (data && fresh.written === data.written) return;
    data = fresh;
    if (document.readyState === "loading") return;
    show();
  };

  // ---- messages: what is wrong, and what to do, one at a time

  const messages = new Map();

  function tell(kind, words, command) {
    if (words) messages.set(kind, [words, command]);
    else if (!messages.delete(kind)) return;
    const host = M.byId("message");
    if (!host) return;
    const first = messages.values().next().value;
    host.hidden = !first;
    if (!first) return;
    const text = JSON.stringify(first);
    if (text === texts.message) return;
    texts.message = text;
    host.replaceChildren(M.element("span", { text: `${first[0]} ` }), first[1] ? M.element("code", { text: first[1] }) : "");
  }

  // ---- loading

  function addScript(source, done, missing) {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => {
      script.remove();
      done();
    };
    script.onerror = () => {
      script.remove();
      missing();
    };
    document.head.append(script);
  }

  function load() {
    window.clearTimeout(timer);
    const before = received;
    addScript(
      `dashboard_data.js?t=${Date.now()}`,
      () => {
        tell("missing", "");
        if (received === before) tell("corrupt", "The data file dashboard_data.js cannot be understood. If the run goes on, it is written anew in a moment; else write it with", `musictrain report ${M.settings.run}`);
        else tell("corrupt", "");
        next();
      },
      () => {
        tell("missing", "There is no data file beside this page: dashboard_data.js is missing. If the run has only begun, it comes in a moment; if the page was moved alone, open it in its run folder, or make a page that stands alone:", `musictrain report ${M.settings.run}`);
        next();
      },
    );
  }

  function next() {
    window.clearTimeout(timer);
    const ended = data && !ACTIVE.includes(stateNow());
    timer = window.setTimeout(load, document.hidden ? EVERY_MS_HIDDEN : ended ? EVERY_MS_ENDED : EVERY_MS);
  }

  function loadPlotly() {
    if (window.Plotly) return;
    const name = M.settings.plotly;
    const give = () => tell("plotly", `The charts need ${name || "plotly.js"}, which is ${name ? "missing beside the run folder" : "not installed"}. The numbers are all here; to see the charts, install plotly and write the page anew:`, `pip install plotly && musictrain report ${M.settings.run}`);
    if (!name) return give();
    const ready = () => {
      tell("plotly", "");
      M.plot.redraw();
    };
    addScript(`../${name}`, ready, () => addScript(name, ready, give));
  }

  // ---- what a reader can do

  function press(buttons, chosen) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
  }

  function listenToReader() {
    M.byId("theme").addEventListener("click", M.switchTheme);
    M.byId("reset-zoom").addEventListener("click", M.plot.reset);
    M.byId("axis").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || button.disabled) return;
      press(M.byId("axis").children, button);
      M.plot.set({ axis: button.dataset.axis });
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
    M.byId("more-alerts").addEventListener("click", () => {
      shownAlerts = shownAlerts > FIRST_ALERTS ? FIRST_ALERTS : Infinity;
      showAttention();
    });
    M.plot.onZoom((range) => {
      M.byId("zoomed").hidden = !range;
      if (range) M.setText(M.byId("zoomed-text"), `Steps ${M.count(Math.max(0, range[0]))} to ${M.count(range[1])}`);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && M.settings.live) load();
    });
    followSections();
  }

  // The section that is being read is marked in the navigation.
  function followSections() {
    const links = new Map([...document.querySelectorAll(".nav a")].map((link) => [link.hash.slice(1), link]));
    const inSight = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) inSight[entry.isIntersecting ? "add" : "delete"](entry.target.id);
        const first = [...links.keys()].find((id) => inSight.has(id));
        const list = document.querySelector(".nav ul");
        const link = links.get(first);
        // On a narrow screen the navigation is wider than the window.
        if (link && list.scrollWidth > list.clientWidth) list.scrollLeft = link.offsetLeft - list.offsetLeft - 60;
        for (const [id, link] of links) {
          if (id === first) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
        }
      },
      { rootMargin: "-70px 0px -55% 0px" },
    );
    for (const section of document.querySelectorAll("main > section")) observer.observe(section);
  }

  function start() {
    listenToReader();
    loadPlotly();
    if (M.settings.live) load();
    if (data) show();
    // A run that falls silent is noticed without new data.
    window.setInterval(() => {
      if (data && !document.hidden) {
        guarded("header", showHeader);
        guarded("attention", showAttention);
      }
    }, 5000);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})(window.musictrain);
