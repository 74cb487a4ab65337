// The section in which samples are heard: a matrix of prompts and steps, a roll that plays, two to compare, a blind test.
// Notes are loaded when they are asked for, as scripts: a page opened from a disk can load nothing else.
(function () {
  "use strict";
  const musictrain = (window.musictrain = window.musictrain || {});
  const sections = (musictrain.sections = musictrain.sections || {});
  const drawing = musictrain.drawing, REFERENCE = "reference", MOST_KEPT = 300, AT_ONCE = 6, BEAT_PIXELS = 6;

  // Everything that comes from a file becomes text here, never markup.
  function make(tag, name, text, more) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(more || {})) element.setAttribute(key, value);
    return element;
  }
  const icon = { play: "M7 4.5v15l12.5-7.5z", pause: "M6 4.5h4.2v15H6zM13.8 4.5H18v15h-4.2z", down: "M11 4h2v8.2l3-3 1.4 1.4L12 16l-5.4-5.4L8 9.2l3 3zM5 18h14v2H5z" };
  function picture(path) {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg"), line = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    line.setAttribute("d", path);
    svg.append(line);
    return svg;
  }
  const clock = (seconds) => Math.floor(seconds / 60) + ":" + String(Math.floor(seconds % 60)).padStart(2, "0");

  // Rolls by key, loaded once for each version of their file, a few at a time.
  class Rolls {
    constructor() { this.kept = new Map(); this.waiting = []; this.busy = 0; this.pending = new Map(); this.inline = {}; }
    get(key, version) {
      const id = key + "?" + version;
      if (!this.kept.has(id)) {
        const promise = Object.hasOwn(this.inline, key) ? Promise.resolve(this.inline[key]) : new Promise((done, fail) => this.waiting.push({ key, version, done, fail }));
        this.kept.set(id, promise.then((sample) => drawing.shape(sample)));
        this.kept.get(id).catch(() => this.kept.delete(id));
        if (this.kept.size > MOST_KEPT) this.kept.delete(this.kept.keys().next().value);
        this.next();
      }
      return this.kept.get(id);
    }
    next() {
      while (this.busy < AT_ONCE && this.waiting.length) {
        const { key, version, done, fail } = this.waiting.pop(), script = document.createElement("script");
        const over = (act) => () => { this.busy -= 1; this.pending.delete(key); script.remove(); act(); this.next(); };
        this.busy += 1;
        this.pending.set(key, (sample) => { script.told = sample; });
        script.src = "samples/" + key.split("/").map(encodeURIComponent).join("/") + ".js?t=" + version;
        script.onload = over(() => (script.told ? done(script.told) : fail(new Error("no roll"))));
        script.onerror = over(() => fail(new Error("not there")));
        document.head.append(script);
      }
    }
  }
  const rolls = new Rolls();
  // What each NAME.js calls.
  musictrain.roll = (key, sample) => { const take = rolls.pending.get(String(key)); if (take && sample && typeof sample === "object") take(sample); };

  class Listen {
    constructor(element) {
      this.root = element;
      this.player = new musictrain.Player();
      this.player.onend = () => this.paint();
      this.data = { rows: [], columns: [] };
      this.told = "";
      this.slots = { a: null, b: null };
      this.active = "a";
      this.shapes = {};
      this.loaded = {};
      this.cells = new Map();
      this.build();
      this.watch();
    }

    build() {
      this.root.classList.add("listen");
      const bar = make("div", "ls-bar");
      this.playButton = make("button", "ls-play", undefined, { type: "button", "aria-label": "Play" });
      this.playButton.append(picture(icon.play));
      this.playButton.onclick = () => this.toggle();
      this.sides = make("div", "ls-sides", undefined, { role: "group", "aria-label": "Which of two is heard" });
      this.side = { a: this.sideButton("a"), b: this.sideButton("b") };
      this.sides.append(this.side.a, this.side.b);
      this.where = make("span", "ls-where", "", { "aria-live": "off" });
      this.tempo = this.slider("Tempo", 50, 200, 100, (value) => this.player.setRate(value / 100), "%");
      this.volume = this.slider("Volume", 0, 100, 80, (value) => this.player.setVolume(value / 100), "");
      this.save = make("a", "ls-button ls-save", undefined, { title: "Download the MIDI file" });
      this.save.append(picture(icon.down), make("span", "", ".mid"));
      this.blindButton = make("button", "ls-button", "Blind test", { type: "button", title: "Tell the corpus from the model by ear" });
      this.blindButton.onclick = () => this.openBlind();
      bar.append(this.playButton, this.sides, this.where, this.tempo, this.volume, this.save, this.blindButton);
      this.stage = make("div", "ls-stage");
      this.canvas = make("canvas", "ls-roll");
      this.head = make("canvas", "ls-head", undefined, { tabindex: "0", role: "slider", "aria-label": "Place in the piece", "aria-valuemin": "0" });
      this.stage.append(this.canvas, this.head);
      this.legend = make("div", "ls-legend");
      this.desk = make("div", "ls-desk");
      this.desk.append(bar, this.stage, this.legend);
      this.blind = make("div", "ls-blind");
      this.blind.hidden = true;
      this.note = make("p", "ls-note");
      this.scroller = make("div", "ls-matrix", undefined, { tabindex: "-1" });
      this.root.append(this.desk, this.blind, this.scroller, this.note);
    }
    sideButton(slot) {
      const button = make("button", "ls-side", undefined, { type: "button", "aria-pressed": "false" });
      button.append(make("b", "", slot.toUpperCase()), make("span", "ls-side-name", ""));
      button.onclick = () => this.turnTo(slot);
      return button;
    }
    slider(name, low, high, value, act, unit) {
      const label = make("label", "ls-slider"), input = make("input", "", undefined, { type: "range", min: low, max: high, value, step: 5, "aria-label": name });
      const shown = make("span", "", name + (unit ? " " + value + unit : ""));
      input.oninput = () => { act(Number(input.value)); if (unit) shown.textContent = name + " " + input.value + unit; };
      label.append(shown, input);
      label.input = input;
      return label;
    }

    watch() {
      const seek = (event) => {
        if (!this.view || !this.shapes[this.active]) return;
        const place = drawing.layout(this.head, this.shapes[this.active], this.view, true);
        this.player.seek(Math.max(0, place.beat(event.clientX - this.head.getBoundingClientRect().left)));
        this.paint();
      };
      this.head.onpointerdown = (event) => { if (event.button === 0) { this.head.setPointerCapture(event.pointerId); seek(event); } };
      this.head.onpointermove = (event) => { if (this.head.hasPointerCapture(event.pointerId)) seek(event); };
      this.scroller.addEventListener("keydown", (event) => this.walk(event));
      document.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.redraw()).observe(this.root);
      new MutationObserver(() => this.redraw(true)).observe(document.documentElement, { attributes: true });
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw(true));
      this.seen = new IntersectionObserver((entries) => {
        for (const entry of entries) if (entry.isIntersecting) this.drawCell(entry.target);
      }, { rootMargin: "200px" });
    }

    // Space plays and pauses, arrows go a bar on and back, B turns to the other side: wherever no field or button has the keyboard.
    key(event) {
      const target = event.target, free = target === document.body || target === this.head || target === this.scroller;
      if (!free || event.ctrlKey || event.metaKey || event.altKey || this.root.hidden || !this.shapes[this.active] || !this.blind.hidden) return;
      const act = {
        " ": () => this.toggle(), b: () => this.turnTo(this.active === "a" ? "b" : "a"),
        ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), Home: () => this.player.seek(0),
      }[event.key];
      if (!act || (target === document.body && !this.used)) return;
      event.preventDefault();
      act();
      this.paint();
    }
    step(direction) {
      const bars = this.shapes[this.active].bars, beat = this.player.beat();
      const bar = direction > 0 ? bars.find((one) => one > beat + 0.01) : [...bars].reverse().find((one) => one < beat - (this.player.playing ? 0.6 : 0.01));
      this.player.seek(bar === undefined ? (direction > 0 ? beat : 0) : bar);
    }
    // Arrows go from cell to cell.
    walk(event) {
      const cell = event.target.closest(".ls-cell"), move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!cell || !move) return;
      event.preventDefault();
      const grid = [...this.scroller.querySelectorAll("tbody tr")].map((row) => [...row.children].slice(1).map((each) => each.querySelector(".ls-cell")));
      let row = grid.findIndex((each) => each.includes(cell)), column = grid[row].indexOf(cell);
      do { row += move[0]; column += move[1]; } while (grid[row] && column >= 0 && column < grid[row].length && !grid[row][column]);
      if (grid[row] && grid[row][column]) { grid[row][column].focus(); grid[row][column].scrollIntoView({ block: "nearest", inline: "nearest" }); }
    }

    update(told) {
      const data = told && Array.isArray(told.columns) && Array.isArray(told.rows) ? told : { rows: [], columns: [] };
      if (data.rolls) rolls.inline = data.rolls;
      this.midi = data.midi || {};
      const summary = JSON.stringify([data.rows, data.columns, data.left_out]);
      this.root.hidden = !data.columns.length;
      if (summary === this.told) return;
      this.told = summary;
      this.data = data;
      this.versions = new Map(data.columns.flatMap((column) => Object.entries(column.cells).map(([name, cell]) => [column.folder + "/" + name, cell])));
      this.fillMatrix();
      this.keepUp();
      this.mark();
    }
    // Until somebody has chosen, the newest is offered; what was written again is loaded again, but not while it plays.
    keepUp() {
      if (!this.used || !this.versions.has(this.slots.a)) return this.begin();
      for (const slot of ["a", "b"]) {
        const key = this.slots[slot], told = this.versions.get(key);
        if (key && !told) { this.slots[slot] = null; delete this.shapes[slot]; }
        else if (key && told[4] !== this.loaded[slot] && !(slot === this.active && this.player.playing)) this.put(slot, key, true);
      }
      return undefined;
    }
    columnsWith(name) { return this.data.columns.filter((column) => Object.hasOwn(column.cells, name)); }
    hasReference(name) { return this.versions.has(REFERENCE + "/" + name); }
    // The newest continuation that has a reference, and the reference; without any, the newest piece.
    begin() {
      const rows = this.data.rows, row = rows.find((one) => this.hasReference(one.name) && this.columnsWith(one.name).length > 1) || rows[0];
      const column = row && this.columnsWith(row.name).pop();
      const key = column && column.folder + "/" + row.name;
      if (!key || (key === this.slots.a && this.loaded.a === this.versions.get(key)[4])) return;
      this.active = "a";
      this.put("a", key, true);
    }
    nameOf(key) {
      const [folder, name] = key.split("/"), column = this.data.columns.find((one) => one.folder === folder);
      return { row: this.data.rows.find((one) => one.name === name), title: column && column.step !== null ? "step " + column.step.toLocaleString("en") : "corpus" };
    }

    // Puts a sample on a side; a new row on side A brings its reference, or an earlier step, to side B.
    async put(slot, key, quietly) {
      this.slots[slot] = key;
      if (slot === "a" && (!this.slots.b || this.slots.b.split("/")[1] !== key.split("/")[1] || this.slots.b === key)) {
        const name = key.split("/")[1], others = this.columnsWith(name).map((column) => column.folder + "/" + name).filter((other) => other !== key);
        const chosen = others.includes(REFERENCE + "/" + name) ? REFERENCE + "/" + name : others.pop();
        if (chosen) this.put("b", chosen, true);
        else { this.slots.b = null; delete this.shapes.b; }
      }
      this.mark();
      try {
        const one = await rolls.get(key, this.versions.get(key)[4]);
        if (this.slots[slot] !== key) return;
        this.shapes[slot] = one;
        this.loaded[slot] = this.versions.get(key)[4];
        if (slot === this.active) this.player.load({ piece: one.piece });
        if (!quietly && slot === this.active && !this.player.playing) { this.used = true; this.player.play(); }
      } catch (error) {
        if (this.slots[slot] === key) delete this.shapes[slot];
        this.complain(key);
      }
      this.mark();
      this.redraw();
      this.paint();
    }
    complain(key) { this.where.textContent = key + ": its notes cannot be loaded"; }
    choose(key) {
      this.used = true;
      if (this.slots[this.active] === key && this.shapes[this.active]) return this.toggle();
      if (this.slots.a === key || this.slots.b === key) { this.turnTo(this.slots.a === key ? "a" : "b"); if (!this.player.playing) this.toggle(); return undefined; }
      // Another row begins at its beginning; another step of the same row goes on at the same place.
      if (this.slots.a && this.slots.a.split("/")[1] !== key.split("/")[1]) this.player.seek(0);
      this.active = "a";
      return this.put("a", key);
    }
    turnTo(slot) {
      if (!this.shapes[slot]) return;
      this.used = true;
      this.active = slot;
      this.player.load({ piece: this.shapes[slot].piece });
      this.mark();
      this.redraw();
      this.paint();
    }
    toggle() {
      this.used = true;
      if (this.player.playing) this.player.pause();
      else this.player.play();
      this.paint();
    }

    fillMatrix() {
      const atEnd = this.scroller.scrollLeft + this.scroller.clientWidth >= this.scroller.scrollWidth - 8, before = this.scroller.scrollLeft;
      const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : undefined;
      const table = make("table"), head = make("tr"), body = make("tbody"), top = make("thead"), kept = new Map();
      head.append(make("th", "ls-corner", "prompt", { scope: "col" }));
      for (const column of this.data.columns) {
        const cell = make("th", column.step === null ? "ls-corpus" : "", column.step === null ? "corpus" : column.step.toLocaleString("en"), { scope: "col" });
        if (column.weights === "best") cell.append(make("span", "ls-best", "best", { title: "played from the best version of the run" }));
        head.append(cell);
      }
      for (const row of this.data.rows) {
        const line = make("tr"), title = make("th", "", undefined, { scope: "row" });
        const what = row.prompt === null ? row.name.replaceAll("_", " ") : row.prompt;
        title.append(make("span", "ls-prompt-name", what, { title: what }), make("small", "", row.prompt === null ? "seed " + (row.seed ?? "?") : row.prompt_beats + " beats given"));
        line.append(title);
        for (const column of this.data.columns) {
          const place = make("td", column.step === null ? "ls-corpus" : ""), told = Object.hasOwn(column.cells, row.name) ? column.cells[row.name] : null;
          if (told) place.append(this.cell(column, row, told, kept));
          line.append(place);
        }
        body.append(line);
      }
      top.append(head);
      table.append(top, body);
      for (const [key, cell] of this.cells) if (!kept.has(key)) this.seen.unobserve(cell.firstChild);
      this.cells = kept;
      this.scroller.replaceChildren(table);
      this.scroller.scrollLeft = atEnd ? this.scroller.scrollWidth : before;
      if (focused && kept.has(focused)) kept.get(focused).firstChild.focus({ preventScroll: true });
      const left = this.data.left_out ? this.data.left_out.toLocaleString("en") + " steps between are not shown. " : "";
      this.note.replaceChildren(make("span", "", left), make("span", "ls-keyboard", "Space plays, arrows go by bars, B turns between A and B."));
    }
    cell(column, row, told, kept) {
      const key = column.folder + "/" + row.name, version = String(told[4]), old = this.cells.get(key);
      if (old && old.dataset.version === version) { kept.set(key, old); return old; }
      const holder = make("div", "ls-holder"), button = make("button", "ls-cell", undefined, { type: "button" });
      const likely = told[2] === null ? "" : ", " + (-told[2]).toFixed(3) + " nats a token";
      button.title = told[1] + " notes, " + told[0] + " beats" + likely + (told[3] ? ", ended by itself" : "");
      button.setAttribute("aria-label", "Play " + (row.prompt === null ? row.name : row.prompt) + ", " + (column.step === null ? "corpus" : "step " + column.step));
      holder.dataset.version = version;
      button.dataset.key = key;
      button.onclick = () => this.choose(key);
      const compare = make("button", "ls-compare", "B", { type: "button", title: "Compare: put it on side B", "aria-label": "Put on side B" });
      compare.onclick = () => { this.used = true; this.put("b", key, true); };
      holder.append(button, compare);
      this.seen.observe(button);
      kept.set(key, holder);
      return holder;
    }
    async drawCell(button) {
      const key = button.dataset.key, told = this.versions.get(key);
      if (!told || !button.isConnected) return;
      try {
        const one = await rolls.get(key, told[4]);
        if (!button.isConnected) return;
        const canvas = button.querySelector("canvas") || button.appendChild(make("canvas"));
        drawing.draw(canvas, one, { from: 0, to: one.end, ...drawing.range([one]) }, false);
        this.seen.unobserve(button);
      } catch (error) { button.classList.add("ls-missing"); }
    }

    mark() {
      for (const [key, holder] of this.cells) {
        holder.classList.toggle("is-a", this.slots.a === key);
        holder.classList.toggle("is-b", this.slots.b === key);
        holder.classList.toggle("is-heard", this.slots[this.active] === key);
      }
      for (const slot of ["a", "b"]) {
        const key = this.slots[slot], button = this.side[slot];
        button.hidden = !key;
        button.setAttribute("aria-pressed", String(slot === this.active));
        if (key) button.lastChild.textContent = this.nameOf(key).title;
      }
      const key = this.slots[this.active];
      if (key) {
        const path = key.split("/").map(encodeURIComponent).join("/");
        this.save.href = Object.hasOwn(this.midi, key) ? "data:audio/midi;base64," + this.midi[key] : "samples/" + path + ".mid";
        this.save.download = key.replace("/", "-").replace(/[^\w.-]+/g, "-") + ".mid";
      }
      this.blindButton.hidden = !this.data.rows.some((row) => this.hasReference(row.name) && this.columnsWith(row.name).length > 1);
    }
    redraw(cells) {
      const one = this.shapes[this.active];
      if (cells) for (const holder of this.cells.values()) if (holder.querySelector("canvas")) this.drawCell(holder.firstChild);
      if (!one || this.root.hidden || !this.canvas.clientWidth) return;
      const both = Object.values(this.shapes), end = Math.max(...both.map((each) => each.end)), room = Math.max(16, Math.floor(this.canvas.clientWidth / BEAT_PIXELS));
      const from = end <= room ? 0 : Math.floor(this.player.beat() / (room * 0.9)) * room * 0.9;
      this.view = { from, to: Math.min(end, from + room), ...drawing.range(both) };
      if (this.view.to - from < Math.min(end, room)) this.view.to = from + Math.min(end, room);
      drawing.draw(this.canvas, one, this.view, true);
      this.fillLegend(one);
      this.drawHead();
    }
    fillLegend(one) {
      const ink = drawing.inks(this.canvas), names = new Map([...one.parts.values()].map((part) => [part.name + part.colour, part]));
      const entries = [...names.values()].slice(0, 8).map((part) => [part.name, drawing.mixed(part.colour, ink.lighter)]);
      if (one.drums.length) entries.push(["Drums", ink.drum]);
      if (one.prompt) entries.push(["prompt, given to the model", ink.prompt, ink.edge]);
      this.legend.replaceChildren(...entries.map(([name, colour, edge]) => {
        const item = make("span", "ls-key"), swatch = make("i");
        swatch.style.background = colour;
        if (edge) swatch.style.boxShadow = "inset 0 0 0 1px " + edge;
        item.append(swatch, make("span", "", name));
        return item;
      }));
    }
    drawHead() {
      const one = this.shapes[this.active], beat = this.player.beat();
      if (!one || !this.view) return;
      if (this.player.playing && (beat >= this.view.to || beat < this.view.from)) { this.view = null; return this.redraw(); }
      drawing.drawHead(this.head, one, this.view, beat, this.player.playing);
      return undefined;
    }
    // Button, place and line; again at every frame while it plays.
    paint() {
      const one = this.shapes[this.active], playing = this.player.playing;
      if (this.playButton.dataset.playing !== String(playing)) {
        this.playButton.dataset.playing = String(playing);
        this.playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
        this.playButton.replaceChildren(picture(playing ? icon.pause : icon.play));
      }
      this.root.classList.toggle("is-playing", playing);
      this.playButton.disabled = !one;
      if (one && this.blind.hidden) {
        const beat = this.player.beat(), bar = one.bars.filter((each) => each <= beat + 1e-3).length, piece = one.piece;
        const text = "bar " + Math.max(1, Math.min(bar, one.bars.length - 1)) + " of " + Math.max(1, one.bars.length - 1) + " · " + clock(piece.seconds(beat) / this.player.rate) + " / " + clock(piece.seconds(piece.end) / this.player.rate);
        if (this.where.textContent !== text) this.where.textContent = text;
        this.head.setAttribute("aria-valuenow", String(Math.round(beat)));
        this.head.setAttribute("aria-valuemax", String(Math.round(piece.end)));
        this.drawHead();
      }
      if (playing && !this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
    }
    openBlind() {
      this.player.pause();
      this.desk.hidden = this.scroller.hidden = this.note.hidden = true;
      this.blind.hidden = false;
      this.test = new musictrain.BlindTest(this, rolls, make);
      this.paint();
    }
    closeBlind() {
      this.player.pause();
      this.blind.hidden = true;
      this.blind.replaceChildren();
      this.desk.hidden = this.scroller.hidden = this.note.hidden = false;
      this.player.seek(0);
      this.turnTo(this.active);
      this.blindButton.focus();
    }
  }

  sections.listen = {
    init(element) { this.view = new Listen(element); element.hidden = true; },
    update(data) { if (this.view) this.view.update(data); },
  };
})();
