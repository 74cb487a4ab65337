// The blind test: excerpts of a few bars after the prompt, half from the corpus, half from the model; which is which is told at the end.
// The score stays in this browser.
(function () {
  "use strict";
  const musictrain = (window.musictrain = window.musictrain || {});
  const TRIALS = [6, 10, 20], EXCERPT_BEATS = 16, LEAST_BEATS = 4, Z = 1.959964;

  // Wilson's interval for a share: where the true one lies, 19 times out of 20.
  function interval(right, of) {
    if (!of) return [0, 1];
    const share = right / of, middle = share + (Z * Z) / (2 * of), half = Z * Math.sqrt((share * (1 - share)) / of + (Z * Z) / (4 * of * of)), scale = 1 + (Z * Z) / of;
    return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)];
  }
  function shuffled(list) {
    const order = [...list];
    for (let index = order.length - 1; index > 0; index--) {
      const other = Math.floor(Math.random() * (index + 1));
      [order[index], order[other]] = [order[other], order[index]];
    }
    return order;
  }
  // A browser may refuse to keep anything for a page from a disk.
  const store = {
    key: () => "musictrain.blind " + location.pathname,
    read() {
      try { const told = JSON.parse(localStorage.getItem(this.key())); return told && told.of >= told.right && told.right >= 0 ? { right: Number(told.right), of: Number(told.of) } : { right: 0, of: 0 }; } catch (error) { return { right: 0, of: 0 }; }
    },
    write(told) { try { localStorage.setItem(this.key(), JSON.stringify(told)); } catch (error) { /* then it is forgotten */ } },
  };
  const percent = (share) => Math.round(100 * share) + " %";
  function verdict(right, of) {
    const [low, high] = interval(right, of);
    const told = low > 0.5 ? "You can tell them apart." : high < 0.5 ? "You take one for the other." : of < 20 ? "Not to be told from guessing yet." : "Not to be told from guessing.";
    return right + " of " + of + " right: " + percent(right / of) + ", 95 % interval " + percent(low) + " to " + percent(high) + ". " + told;
  }

  class BlindTest {
    constructor(view, rolls, make) {
      Object.assign(this, { view, rolls, make });
      view.player.onend = () => this.paint();
      this.ask();
    }
    // The rows that can be asked for: with a reference, and the newest step of each.
    pairs() {
      return this.view.data.rows.filter((row) => this.view.hasReference(row.name)).map((row) => {
        const newest = this.view.columnsWith(row.name).filter((column) => column.step !== null).pop();
        return newest && { corpus: "reference/" + row.name, model: newest.folder + "/" + row.name, step: newest.step };
      }).filter(Boolean);
    }
    frame(title, text, ...nodes) {
      const close = this.make("button", "ls-button", "Close", { type: "button" });
      close.onclick = () => this.leave();
      const head = this.make("div", "ls-blind-head");
      head.append(this.make("h3", "", title), close);
      this.view.blind.replaceChildren(head, this.make("p", "", text), ...nodes);
    }
    ask() {
      const kept = store.read(), row = this.make("div", "ls-answers"), pairs = this.pairs(), steps = [...new Set(pairs.map((pair) => pair.step))];
      for (const count of TRIALS) {
        const button = this.make("button", "ls-button", count + " excerpts", { type: "button" });
        button.onclick = () => this.start(count);
        row.append(button);
      }
      const nodes = [row];
      if (kept.of) {
        const forget = this.make("button", "ls-link", "forget", { type: "button" });
        forget.onclick = () => { store.write({ right: 0, of: 0 }); this.ask(); };
        const line = this.make("p", "ls-kept", "So far, in this browser: " + verdict(kept.right, kept.of) + " ");
        line.append(forget);
        nodes.push(line);
      }
      this.frame("Corpus or model?", "Excerpts of " + EXCERPT_BEATS + " beats after the prompt, half from the corpus, half from step " + steps.map((step) => step.toLocaleString("en")).join(", ") + ", in random order. Without hearing a difference you would get half of them right.", ...nodes);
    }
    async start(count) {
      const pairs = this.pairs(), truths = shuffled(Array.from({ length: count }, (_, index) => (index % 2 ? "corpus" : "model")));
      const rows = Array.from({ length: count }, (_, index) => pairs[index % pairs.length]);
      this.trials = shuffled(rows).map((pair, index) => ({ pair, truth: truths[index] }));
      this.right = 0;
      this.done = 0;
      this.answers = [];
      await this.next();
    }
    async next() {
      const trial = this.trials[this.done], keys = [trial.pair.corpus, trial.pair.model];
      try {
        const [corpus, model] = await Promise.all(keys.map((key) => this.rolls.get(key, this.view.versions.get(key)[4])));
        const from = Math.max(corpus.prompt, model.prompt), end = Math.min(corpus.piece.end, model.piece.end);
        const latest = Math.max(from, end - EXCERPT_BEATS), starts = corpus.bars.filter((bar) => bar >= from && bar <= latest);
        trial.start = starts.length ? starts[Math.floor(Math.random() * starts.length)] : from;
        trial.stop = Math.max(trial.start + LEAST_BEATS, Math.min(trial.start + EXCERPT_BEATS, end));
        this.view.player.pause();
        this.view.player.load({ piece: trial.truth === "corpus" ? corpus.piece : model.piece });
      } catch (error) { return this.frame("Corpus or model?", "The notes of a sample cannot be loaded."); }
      this.show();
      return this.play();
    }
    show() {
      const row = this.make("div", "ls-answers"), buttons = [["corpus", "Corpus", "1"], ["model", "Model", "2"]].map(([value, text, key]) => {
        const button = this.make("button", "ls-button ls-answer", text, { type: "button", "aria-keyshortcuts": key });
        button.onclick = () => this.answer(value);
        return button;
      });
      this.again = this.make("button", "ls-button", "Pause", { type: "button" });
      this.again.onclick = () => (this.view.player.playing ? this.view.player.pause() : this.play(), this.paint());
      row.append(this.again, ...buttons);
      const dots = this.make("div", "ls-dots", undefined, { "aria-hidden": "true" });
      this.trials.forEach((_, index) => dots.append(this.make("i", index < this.done ? "is-done" : index === this.done ? "is-now" : "")));
      this.frame("Excerpt " + (this.done + 1) + " of " + this.trials.length, "Who wrote this?", row, dots);
      this.view.blind.onkeydown = (event) => { const button = buttons[["1", "2"].indexOf(event.key)]; if (button) button.click(); };
      buttons[0].focus({ preventScroll: true });
    }
    play() {
      const trial = this.trials[this.done];
      this.view.player.play(trial.start, trial.stop);
      this.paint();
    }
    paint() {
      if (this.again && this.again.isConnected) this.again.textContent = this.view.player.playing ? "Pause" : "Hear it again";
    }
    answer(value) {
      this.view.player.pause();
      const trial = this.trials[this.done];
      trial.answer = value;
      this.right += value === trial.truth ? 1 : 0;
      this.done += 1;
      if (this.done < this.trials.length) return this.next();
      return this.finish();
    }
    finish() {
      const kept = store.read(), total = { right: kept.right + this.right, of: kept.of + this.done };
      store.write(total);
      const list = this.make("ol", "ls-told");
      for (const trial of this.trials) {
        const row = this.view.data.rows.find((one) => "reference/" + one.name === trial.pair.corpus);
        const who = (value) => (value === "corpus" ? "corpus" : "model");
        list.append(this.make("li", trial.answer === trial.truth ? "is-right" : "is-wrong", (trial.answer === trial.truth ? "✓ " : "✗ ") + (row.prompt === null ? row.name : row.prompt) + ": it was the " + who(trial.truth) + ", you said " + who(trial.answer)));
      }
      const more = this.make("button", "ls-button", "Once more", { type: "button" }), nodes = [list, more];
      more.onclick = () => this.ask();
      if (total.of > this.done) nodes.splice(1, 0, this.make("p", "ls-kept", "All your answers in this browser: " + verdict(total.right, total.of)));
      this.frame("Your ear", verdict(this.right, this.done), ...nodes);
      more.focus({ preventScroll: true });
    }
    leave() {
      this.view.blind.onkeydown = null;
      this.view.player.onend = () => this.view.paint();
      this.view.closeBlind();
    }
  }

  musictrain.BlindTest = BlindTest;
  musictrain.blindInterval = interval;
})();
