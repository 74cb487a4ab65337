// What stands at the top of the page, and the machine in a row of numbers: the run in figures, and its state even if it fell silent.
"use strict";

(function (M) {
  const SILENCE_SECONDS = 60;
  const ACTIVE = ["starting", "training", "validating", "sampling", "saving"];
  const TONES = { finished: "good", stopped: "warn", failed: "bad", interrupted: "warn", paused: "warn", stale: "bad" };
  const WORDS = { stopped: "stopped by a rule", unknown: "no heartbeat" };
  const MIB = 1048576;

  let tagsText = "";
  let tilesText = "";

  // ---- the run's state, by its own words and by its heartbeat

  M.silentFor = (data) => (data && data.status ? Date.now() / 1000 - Number(data.status.updated) : 0);

  M.stateOf = function (data) {
    if (!data) return "unknown";
    const silent = data.status && M.silentFor(data) > SILENCE_SECONDS;
    return ACTIVE.includes(data.state) && silent ? "stale" : data.state;
  };

  M.isActive = (state) => ACTIVE.includes(state);
  M.toneOf = (state) => (M.isActive(state) ? "busy" : TONES[state] || "");

  // ---- facts: a label, a value, and what else there is to say

  function lastOf(...keys) {
    const curve = keys.map(M.plot.curve).find((each) => each && each.values.length);
    if (!curve) return null;
    return { value: curve.values[curve.values.length - 1], step: curve.steps[curve.steps.length - 1] };
  }

  const atStep = (step) => (M.isNumber(step) ? `at step ${M.count(step)}` : "");

  function stepFact(data) {
    const { total } = data.status || {};
    const more = M.isNumber(total) ? `of ${M.count(total)}, ${M.percent(data.step / total)}` : "no fixed number of steps";
    return ["Step", M.count(data.step), more];
  }

  function lossFacts(data) {
    const training = lastOf("train/loss", "train_loss", "loss");
    const validation = lastOf("val/loss", "val_loss");
    return [
      ["Training loss", training ? M.number(training.value) : "–", training && training.step !== data.step ? atStep(training.step) : ""],
      ["Validation loss", validation ? M.number(validation.value) : "–", validation ? atStep(validation.step) : "none yet"],
    ];
  }

  function bestFact({ best, vetoed }) {
    if (!best || !best.metric) return ["Best", "–", vetoed && vetoed.length ? "every one was vetoed" : ""];
    return [best.metric === "val/loss" ? "Best" : `Best ${best.metric}`, M.number(Number(best.value)), atStep(best.step)];
  }

  function speedFact({ status }) {
    const measured = lastOf("speed/tokens_per_second", "train/tokens_per_second");
    const speed = status && M.isNumber(status.tokens_per_second) ? status.tokens_per_second : measured && measured.value;
    const memory = lastOf("speed/memory_peak_mib");
    return ["Tokens per second", M.count(speed), memory && Number.isFinite(memory.value) ? `${M.bytes(memory.value * MIB)} of memory` : ""];
  }

  function trainedFact(data) {
    const status = data.status || {};
    const known = M.isNumber(status.elapsed_seconds) && status.elapsed_seconds > 0;
    const between = M.isNumber(data.first_time) && M.isNumber(data.last_time) ? data.last_time - data.first_time : null;
    const began = M.isNumber(status.first_started) && status.first_started > 0 ? status.first_started : data.first_time;
    return ["Trained for", M.duration(known ? status.elapsed_seconds : between), M.isNumber(began) ? `since ${M.moment(began)}` : ""];
  }

  function endFact(data, state) {
    const status = data.status || {};
    if (M.isActive(state)) return timeLeft(status);
    if (state === "stale") return ["Last sign of life", `${M.duration(M.silentFor(data))} ago`, M.moment(status.updated)];
    return M.isNumber(status.ended) ? ["Ended", M.moment(status.ended), M.day(status.ended)] : ["Ended", "–", ""];
  }

  function timeLeft({ left_seconds: left, left_low: low, left_high: high, ends_at: end }) {
    if (!M.isNumber(left)) return ["Time left", "–", "not known yet"];
    const bounds = M.isNumber(low) && M.isNumber(high) ? [`${M.roughly(low)} to ${M.roughly(high)}`] : [];
    const clock = M.isNumber(end) ? [`ends ${M.moment(end)}`] : [];
    return ["Time left", M.duration(left), [...bounds, ...clock].join(", ")];
  }

  function showFacts(facts) {
    const host = M.byId("facts");
    if (host.children.length !== facts.length) {
      const empty = () => M.element("div", {}, M.element("dt"), M.element("dd", {}, M.element("span"), M.element("small")));
      host.replaceChildren(...facts.map(empty));
    }
    facts.forEach(([label, value, more], place) => {
      const node = host.children[place];
      M.setText(node.querySelector("dt"), label);
      M.setText(node.querySelector("dd span"), value);
      M.setText(node.querySelector("dd small"), more);
    });
  }

  // ---- name, state, progress

  function showNames(data) {
    const attempt = data.status && data.status.attempt > 1 ? ` · attempt ${M.count(data.status.attempt)}` : "";
    M.setText(M.byId("name"), M.shortName(data.run));
    M.setText(M.byId("folder"), data.run);
    M.setText(M.byId("attempt"), attempt);
    M.setText(M.byId("note"), data.note);
    M.byId("note").hidden = !data.note;
    const text = JSON.stringify(data.tags);
    if (text === tagsText) return;
    tagsText = text;
    M.byId("tags").replaceChildren(...data.tags.map((tag) => M.element("span", { class: "tag", text: tag })));
  }

  function shareDone(data, state) {
    const { total } = data.status || {};
    if (state === "finished") return 1;
    return M.isNumber(total) && total > 0 ? Math.min(1, data.step / total) : 0;
  }

  function showState(data, state) {
    const share = shareDone(data, state);
    const words = WORDS[state] || state;
    const pill = M.byId("state");
    M.setText(pill, words);
    pill.dataset.tone = M.toneOf(state);
    const progress = M.byId("progress");
    progress.dataset.tone = M.toneOf(state);
    progress.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    M.byId("bar").style.width = `${100 * share}%`;
    const percent = M.isActive(state) && share > 0 ? `${M.percent(share)} ` : "";
    document.title = `${percent}${M.shortName(data.run)} · ${words}`;
  }

  M.showHeader = function (data) {
    const state = M.stateOf(data);
    showNames(data);
    showState(data, state);
    showFacts([stepFact(data), ...lossFacts(data), bestFact(data), speedFact(data), trainedFact(data), endFact(data, state)]);
  };

  // ---- the machine in a row of numbers

  M.showTiles = function (data) {
    const tiles = [
      ["Tokens per second", "speed/tokens_per_second", M.count],
      ["MFU, share of the peak", "speed/mfu", (share) => M.percent(share, share < 0.1 ? 1 : 0)],
      ["Waiting for data", "speed/data_wait", (share) => M.percent(share, 1)],
      ["Memory, at most", "speed/memory_peak_mib", (mib) => M.bytes(mib * MIB)],
    ]
      .map(([label, key, words]) => [label, lastOf(key), words])
      .filter(([, last]) => last && Number.isFinite(last.value))
      .map(([label, last, words]) => [label, words(last.value)]);
    const status = data.status || {};
    if (status.world_size > 1) tiles.push(["Processes", M.count(status.world_size)]);
    if (status.host) tiles.push(["Machine", status.host]);
    const text = JSON.stringify(tiles);
    if (text === tilesText) return;
    tilesText = text;
    const parts = ([label, value]) => [M.element("span", { text: label }), M.element("b", { text: value })];
    M.byId("tiles").replaceChildren(...tiles.map((tile) => M.element("li", { class: "card tile" }, parts(tile))));
    M.byId("tiles").hidden = !tiles.length;
  };
})(window.musictrain);
