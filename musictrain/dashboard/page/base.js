// What every page of musictrain shares: elements made of text alone, numbers in words, the theme. Loaded first.
"use strict";

window.musictrain = window.musictrain || {};

(function (M) {
  M.sections = M.sections || {};
  M.settings = window.musictrainSettings || {};

  // An element with attributes and children. Children that are no elements become text: nothing here is ever read as HTML.
  M.element = function (tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") made.textContent = String(value);
      else if (name === "class") made.className = value;
      else if (name.startsWith("on") && typeof value === "function") made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat()) {
      if (child === null || child === undefined) continue;
      made.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return made;
  };

  // Sets a text only where it differs, so that a selection and a screen reader are left in peace.
  M.setText = function (node, text) {
    const told = text === null || text === undefined ? "" : String(text);
    if (node && node.textContent !== told) node.textContent = told;
  };

  M.byId = (id) => document.getElementById(id);

  // A page that was opened from a disk may not fetch, but it may add a script.
  M.addScript = function (source, done, missing) {
    const script = M.element("script", { src: source });
    script.onload = () => {
      script.remove();
      done();
    };
    script.onerror = () => {
      script.remove();
      missing();
    };
    document.head.append(script);
  };

  // ---- numbers in words

  M.isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  M.count = (value) => (M.isNumber(value) ? Math.round(value).toLocaleString("en-US") : "–");

  // Four digits that matter: 0.3634, 12.35; thousands whole: 20,965.
  M.number = function (value, digits = 4) {
    if (value === null || value === undefined) return "–";
    const number = Number(value);
    if (Number.isNaN(number)) return "NaN";
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
    if (number === 0) return "0";
    const size = Math.abs(number);
    if (size >= 1000) return Math.round(number).toLocaleString("en-US");
    if (size < 0.001) return Number(number.toPrecision(3)).toExponential().replace(/-/g, "−");
    return String(Number(number.toPrecision(digits))).replace("-", "−");
  };

  M.percent = (share, digits = 0) => (M.isNumber(share) ? `${(100 * share).toFixed(digits)} %` : "–");

  // A time span in the two largest units that matter: 7 s, 3 min 20 s, 2 h 5 min.
  M.duration = function (seconds) {
    if (!M.isNumber(seconds)) return "–";
    const whole = Math.max(0, Math.round(seconds));
    const units = [
      [86400, "d", 3600, "h"],
      [3600, "h", 60, "min"],
      [60, "min", 1, "s"],
    ];
    for (const [unit, name, smaller, smallerName] of units) {
      if (whole >= unit) return `${Math.floor(whole / unit)} ${name} ${Math.floor((whole % unit) / smaller)} ${smallerName}`;
    }
    return `${whole} s`;
  };

  // One unit alone, for bounds: 50 s, 3 min, 2.5 h.
  M.roughly = function (seconds) {
    if (!M.isNumber(seconds)) return "–";
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Number((seconds / 3600).toFixed(1))} h`;
    return `${Number((seconds / 86400).toFixed(1))} d`;
  };

  const two = (value) => String(value).padStart(2, "0");
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

  const dateOf = (time) => (M.isNumber(time) ? new Date(1000 * time) : null);

  M.clock = function (time, withSeconds = false) {
    const date = dateOf(time);
    return date ? `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ""}` : "–";
  };

  M.day = function (time) {
    const date = dateOf(time);
    return date ? `${date.getDate()} ${MONTHS[date.getMonth()]} ${date.getFullYear()}` : "–";
  };

  // A clock time, with its day if that is not today.
  M.moment = function (time, withSeconds = false) {
    const date = dateOf(time);
    if (!date) return "–";
    const today = new Date().toDateString() === date.toDateString();
    return today ? M.clock(time, withSeconds) : `${date.getDate()} ${MONTHS[date.getMonth()]}, ${M.clock(time, withSeconds)}`;
  };

  M.bytes = function (bytes) {
    if (!M.isNumber(bytes)) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let place = 0;
    while (bytes >= 1024 && place < units.length - 1) {
      bytes /= 1024;
      place += 1;
    }
    return `${place && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[place]}`;
  };

  // A run's name without its time stamp, for headings: 2026-11-22_220351-chorales-lively-gigue is chorales-lively-gigue.
  M.shortName = (name) => String(name).replace(/^\d{4}-\d\d-\d\d_\d{6}-(?=.)/, "");

  // ---- what is remembered in this browser alone; a page from a file may not be allowed to

  M.remembered = function (key, otherwise) {
    try {
      return window.localStorage.getItem(`musictrain.${key}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  };

  M.remember = function (key, value) {
    try {
      window.localStorage.setItem(`musictrain.${key}`, value);
    } catch {
      // Then it is forgotten when the page closes.
    }
  };

  // ---- theme

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];
  let chosen = M.remembered("theme", "");

  function applyTheme() {
    const theme = chosen || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    for (const listener of listeners) listener(theme);
  }

  M.theme = () => document.documentElement.dataset.theme;
  M.onTheme = (listener) => listeners.push(listener);
  M.switchTheme = function () {
    const now = M.theme() === "dark" ? "light" : "dark";
    // The system's own choice is not remembered, so that the page follows it again.
    chosen = now === (dark.matches ? "dark" : "light") ? "" : now;
    M.remember("theme", chosen);
    applyTheme();
  };
  dark.addEventListener("change", applyTheme);
  applyTheme();

  M.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  M.calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
})(window.musictrain);
