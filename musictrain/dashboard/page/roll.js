// Draws a roll on a canvas: the prompt shaded, bars, voices in the colours of the pictures, drums in rows below.
(function () {
  "use strict";
  const musictrain = (window.musictrain = window.musictrain || {});
  const COLOUR = /^#[0-9a-f]{6}$/i, PLAIN = "#0072B2", MOST_LINES = 4000;

  // What of a sample a drawing needs, made once.
  function shape(sample) {
    const piece = new musictrain.Piece(sample), parts = new Map();
    for (const part of Array.isArray(sample.parts) ? sample.parts : []) {
      if (Array.isArray(part)) parts.set(part[0] + "/" + part[1], { name: String(part[2]), colour: COLOUR.test(part[3]) ? part[3] : PLAIN });
    }
    const pitched = piece.notes.filter((note) => !note.drum).map((note) => note.pitch);
    const bars = (Array.isArray(sample.bars) ? sample.bars : []).map(Number).filter(isFinite).slice(0, MOST_LINES);
    return {
      piece, parts, bars,
      prompt: Math.max(0, Number(sample.prompt_beats) || 0),
      end: Math.max(piece.end, bars.length ? bars[bars.length - 1] : 0, 1),
      low: pitched.reduce((a, b) => Math.min(a, b), 127), high: pitched.reduce((a, b) => Math.max(a, b), 0),
      drums: [...new Set(piece.notes.filter((note) => note.drum).map((note) => note.pitch))].sort((a, b) => b - a),
    };
  }

  // The range of pitches of several pieces: at least an octave and a half.
  function range(shapes) {
    let low = Math.min(...shapes.map((one) => one.low)), high = Math.max(...shapes.map((one) => one.high));
    if (low > high) [low, high] = [60, 72];
    const missing = Math.max(0, 18 - (high - low));
    return { low: low - Math.floor(missing / 2) - 1, high: high + Math.ceil(missing / 2) + 1 };
  }

  function inks(element) {
    const style = getComputedStyle(element), ink = (name) => style.getPropertyValue(name).trim() || "#888888";
    return {
      ground: ink("--ls-ground"), keys: ink("--ls-keys"), bar: ink("--ls-bar"), octave: ink("--ls-octave"), text: ink("--ls-muted"),
      prompt: ink("--ls-prompt"), edge: ink("--ls-prompt-edge"), drum: ink("--ls-drum"), head: ink("--ls-accent"),
      lighter: Number(ink("--ls-lighter")) || 0, outline: ink("--ls-text"),
    };
  }

  function mixed(colour, share) {
    if (!share) return colour;
    const value = parseInt(colour.slice(1), 16);
    return "rgb(" + [16, 8, 0].map((shift) => Math.round(((value >> shift) & 255) * (1 - share) + 255 * share)).join(",") + ")";
  }

  // Fits a canvas to its box; gives back its context in CSS pixels, with width and height.
  function sized(canvas) {
    const scale = Math.min(3, window.devicePixelRatio || 1), width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    return { pen, width, height };
  }

  // Where beats and pitches lie: a view is {from, to, low, high}; full drawings have room for bar numbers and names of Cs.
  function layout(canvas, one, view, full) {
    const { pen, width, height } = sized(canvas), left = full ? 26 : 0, top = full ? 16 : 2, drums = one.drums.length * (full ? 9 : 3);
    const bottom = height - drums - (drums && full ? 6 : 2), row = (bottom - top) / (view.high - view.low + 1);
    return {
      pen, width, height, left, top, bottom, row, drum: full ? 9 : 3,
      x: (beat) => left + ((beat - view.from) / (view.to - view.from)) * (width - left),
      y: (pitch) => bottom - (pitch - view.low + 1) * row,
      beat: (x) => view.from + ((x - left) / (width - left)) * (view.to - view.from),
    };
  }

  function drawFrame(place, one, view, ink) {
    const { pen, x, y, left, top, bottom, row, width } = place;
    pen.fillStyle = ink.keys;
    for (let pitch = view.low; pitch <= view.high; pitch++) if ([1, 3, 6, 8, 10].includes(((pitch % 12) + 12) % 12)) pen.fillRect(left, y(pitch), width - left, row);
    pen.font = "10px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (let pitch = view.low; pitch <= view.high; pitch++) {
      if (pitch % 12) continue;
      pen.fillStyle = ink.octave;
      pen.fillRect(left, y(pitch) + row - 0.5, width - left, 1);
      pen.fillStyle = ink.text;
      pen.fillText("C" + (pitch / 12 - 1), left - 4, y(pitch) + row / 2);
    }
    pen.textAlign = "left";
    pen.textBaseline = "top";
    const shown = one.bars.filter((bar) => bar >= view.from && bar <= view.to).length, every = [1, 2, 4, 8, 16, 32, 64, 1e9].find((step) => (shown / step) * 26 <= width);
    one.bars.forEach((bar, index) => {
      if (bar < view.from || bar > view.to) return;
      pen.fillStyle = ink.bar;
      pen.fillRect(x(bar) - 0.5, top, 1, bottom - top);
      pen.fillStyle = ink.text;
      if (index % every === 0 && index + 1 < one.bars.length && x(bar) < width - 14) pen.fillText(String(index + 1), x(bar) + 2, 3);
    });
  }

  function box(place, one, note) {
    const left = place.x(note.onset), right = Math.max(left + 1.5, place.x(note.onset + (note.drum ? 0.2 : note.duration)));
    const thick = note.drum ? place.drum - 1.5 : Math.max(1.6, place.row * 0.88);
    const top = note.drum ? place.height - (one.drums.length - one.drums.indexOf(note.pitch)) * place.drum : place.y(note.pitch) + (place.row - thick) / 2;
    return [left, top, right - left, thick];
  }

  function draw(canvas, one, view, full) {
    const ink = inks(canvas), place = layout(canvas, one, view, full), { pen } = place;
    pen.clearRect(0, 0, place.width, place.height);
    pen.fillStyle = ink.ground;
    pen.fillRect(place.left, place.top, place.width - place.left, place.height - place.top);
    if (one.prompt > view.from) {
      pen.fillStyle = ink.prompt;
      pen.fillRect(place.left, place.top, place.x(Math.min(one.prompt, view.to)) - place.left, place.height - place.top);
    }
    if (full) drawFrame(place, one, view, ink);
    if (one.prompt > view.from && one.prompt < view.to) {
      pen.fillStyle = ink.edge;
      pen.fillRect(place.x(one.prompt) - 0.75, place.top, 1.5, place.height - place.top);
    }
    pen.save();
    pen.beginPath();
    pen.rect(place.left, 0, place.width - place.left, place.height);
    pen.clip();
    for (const note of one.piece.notes) {
      if (note.onset >= view.to || note.onset + note.duration <= view.from) continue;
      const [left, top, wide, thick] = box(place, one, note), part = one.parts.get(note.track + "/" + note.program);
      pen.globalAlpha = 0.35 + 0.65 * Math.min(1, note.velocity / 100);
      pen.fillStyle = note.drum ? ink.drum : mixed(part ? part.colour : PLAIN, ink.lighter);
      pen.fillRect(left, top, full && wide > 4 ? wide - 1 : wide, thick);
    }
    pen.restore();
    return place;
  }

  // The moving part, on a canvas of its own above: the line, and the notes that sound.
  function drawHead(canvas, one, view, beat, sounding) {
    const ink = inks(canvas), place = layout(canvas, one, view, true), { pen } = place;
    pen.clearRect(0, 0, place.width, place.height);
    if (beat < view.from || beat > view.to) return;
    if (sounding) {
      pen.strokeStyle = ink.outline;
      pen.lineWidth = 1.25;
      for (const note of one.piece.notes) if (note.onset <= beat && beat < note.onset + note.duration) pen.strokeRect(...box(place, one, note));
    }
    pen.fillStyle = ink.head;
    pen.fillRect(Math.max(place.left, place.x(beat)) - 1, place.top - 4, 2, place.height - place.top + 4);
  }

  musictrain.drawing = { shape, range, layout, draw, drawHead, mixed, inks };
})();
