// Plays a roll with the browser's own synthesiser: oscillators with envelopes for voices, noise for drums, no sound font.
// Time is in beats (quarter notes) outside, in seconds of the audio clock inside.
(function () {
  "use strict";
  const musictrain = (window.musictrain = window.musictrain || {});

  // For each General MIDI family: strengths of the partials, attack, decay (0 sustains), release in seconds, loudness.
  const PIANO = [[1, 0.55, 0.3, 0.2, 0.1, 0.06, 0.04], 0.004, 1.1, 0.16, 1];
  const BELL = [[1, 0, 0.5, 0, 0.25, 0, 0.1], 0.002, 1.3, 0.5, 0.8];
  const ORGAN = [[1, 0.6, 0.35, 0.25, 0, 0.12], 0.025, 0, 0.09, 0.6];
  const PLUCK = [[1, 0.7, 0.45, 0.3, 0.18, 0.1], 0.002, 0.55, 0.1, 0.9];
  const BASS = [[1, 0.5, 0.2, 0.08], 0.005, 0.9, 0.1, 1.1];
  const STRINGS = [[1, 0.5, 0.4, 0.25, 0.2, 0.12, 0.08], 0.08, 0, 0.22, 0.5];
  const BRASS = [[1, 0.8, 0.6, 0.4, 0.25, 0.12], 0.04, 0, 0.1, 0.5];
  const REED = [[1, 0.1, 0.5, 0.08, 0.3, 0.05, 0.15], 0.03, 0, 0.08, 0.55];
  const FLUTE = [[1, 0.15, 0.06], 0.05, 0, 0.12, 0.8];
  const LEAD = [[1, 0.5, 0.33, 0.25, 0.2, 0.16], 0.01, 0, 0.08, 0.45];
  const PAD = [[1, 0.3, 0.15, 0.08], 0.2, 0, 0.4, 0.55];
  const FAMILIES = [PIANO, BELL, ORGAN, PLUCK, BASS, STRINGS, STRINGS, BRASS, REED, FLUTE, LEAD, PAD, PAD, PLUCK, BELL, PAD];
  // For some drums: lowest noise in Hz, seconds to fade, and a tone in Hz that falls; others are a short hiss.
  const DRUMS = {
    35: [0, 0.3, 50], 36: [0, 0.3, 55], 38: [1200, 0.2, 180], 40: [1200, 0.2, 200], 39: [1000, 0.18], 41: [0, 0.35, 85], 43: [0, 0.35, 100],
    45: [0, 0.3, 120], 47: [0, 0.3, 140], 48: [0, 0.3, 165], 50: [0, 0.3, 195], 42: [7000, 0.06], 44: [7000, 0.08], 46: [6000, 0.4],
    49: [3500, 1.2], 57: [3500, 1.2], 51: [5500, 0.6], 53: [5500, 0.6], 59: [5500, 0.6],
  };
  const AHEAD_SECONDS = 0.25, AHEAD_HIDDEN_SECONDS = 2.5, TICK_MS = 40, MOST_VOICES = 72, SILENT = 1e-4;

  // A roll's notes by onset, and its tempo map, which goes both ways.
  class Piece {
    constructor(sample) {
      const roll = sample.roll || {}, at = (name, index, other) => { const value = Number((roll[name] || [])[index]); return isFinite(value) ? value : other; };
      this.notes = (roll.onset || []).map((_, index) => ({
        onset: at("onset", index, 0), duration: Math.max(0.02, at("duration", index, 1)), pitch: at("pitch", index, 60), velocity: at("velocity", index, 80),
        program: at("program", index, 0), track: at("track", index, 0), drum: at("drum", index, 0) > 0,
      })).filter((note) => note.onset >= 0).sort((a, b) => a.onset - b.onset);
      this.end = this.notes.reduce((end, note) => Math.max(end, note.onset + note.duration), 0);
      let seconds = 0;
      this.tempos = [];
      const told = (Array.isArray(sample.tempos) ? sample.tempos : []).map((pair) => [Number(pair[0]), Number(pair[1])]).filter((pair) => pair[0] >= 0 && pair[1] > 0);
      for (const [beat, bpm] of told.length ? told : [[0, 120]]) {
        const last = this.tempos[this.tempos.length - 1];
        if (last) seconds += (beat - last.beat) * last.length;
        this.tempos.push({ beat: last ? beat : 0, seconds, length: 60 / bpm });
      }
    }
    seconds(beat) {
      const tempo = this.tempos.filter((one) => one.beat <= beat).pop() || this.tempos[0];
      return tempo.seconds + (beat - tempo.beat) * tempo.length;
    }
    beat(seconds) {
      const tempo = this.tempos.filter((one) => one.seconds <= seconds).pop() || this.tempos[0];
      return tempo.beat + (seconds - tempo.seconds) / tempo.length;
    }
  }

  class Player {
    constructor() {
      this.piece = null;
      this.playing = false;
      this.rate = 1;
      this.volume = 0.8;
      this.onend = null;
      this._beat = 0;
      this._until = Infinity;
      this._voices = new Set();
    }
    // The audio graph is made at the first sound: browsers want a click before it.
    _graph() {
      if (this.audio) return;
      const audio = (this.audio = new (window.AudioContext || window.webkitAudioContext)());
      this._master = audio.createGain();
      const limiter = audio.createDynamicsCompressor();
      this.analyser = audio.createAnalyser();
      this.analyser.fftSize = 8192;
      this._master.gain.value = this.volume;
      this._master.connect(limiter).connect(this.analyser).connect(audio.destination);
      const noise = (this._noise = audio.createBuffer(1, audio.sampleRate * 2, audio.sampleRate)).getChannelData(0);
      for (let index = 0; index < noise.length; index++) noise[index] = Math.random() * 2 - 1;
      this._waves = new Map();
    }
    // A sample, or {piece}, one that was read already; what plays goes on at the same beat.
    load(sample) {
      const playing = this.playing, beat = this.beat();
      this._halt();
      this.piece = sample.piece || new Piece(sample);
      this._beat = Math.min(beat, this.piece.end);
      if (playing) this.play();
    }
    get end() { return this.piece ? Math.min(this.piece.end, this._until) : 0; }
    beat() {
      if (!this.playing) return this._beat;
      return Math.min(this.piece.beat(this._from + Math.max(0, this.audio.currentTime - this._began) * this.rate), this.end);
    }
    play(from, until) {
      if (!this.piece) return;
      this._halt();
      this._graph();
      this.audio.resume();
      if (from !== undefined) { this._beat = from; this._until = until === undefined ? Infinity : until; }
      if (this._beat >= this.end - 1e-6) this._beat = 0;
      this._from = this.piece.seconds(this._beat);
      this._began = this.audio.currentTime + 0.06;
      // What sounds already is taken up where it stands.
      this._next = this.piece.notes.findIndex((note) => note.onset + note.duration > this._beat + 1e-6 && (note.onset >= this._beat - 1e-6 || !note.drum));
      if (this._next < 0) this._next = this.piece.notes.length;
      this.playing = true;
      this._timer = setInterval(() => this._schedule(), TICK_MS);
      this._schedule();
    }
    pause() { const beat = this.beat(); this._halt(); this._beat = beat; }
    seek(beat) {
      const playing = this.playing;
      this._halt();
      this._until = Infinity;
      this._beat = Math.max(0, Math.min(beat, this.end));
      if (playing) this.play();
    }
    setRate(rate) { const beat = this.beat(), playing = this.playing; this._halt(); this._beat = beat; this.rate = rate; if (playing) this.play(); }
    setVolume(volume) { this.volume = volume; if (this.audio) this._master.gain.setTargetAtTime(volume, this.audio.currentTime, 0.02); }
    _halt() {
      clearInterval(this._timer);
      this.playing = false;
      const now = this.audio ? this.audio.currentTime : 0;
      for (const voice of this._voices) {
        voice.gain.cancelScheduledValues(now);
        voice.gain.setTargetAtTime(0, now, 0.012);
        voice.source.stop(now + 0.1);
      }
      this._voices.clear();
    }
    _time(beat) { return this._began + (this.piece.seconds(beat) - this._from) / this.rate; }
    _schedule() {
      const audio = this.audio, horizon = audio.currentTime + (document.hidden ? AHEAD_HIDDEN_SECONDS : AHEAD_SECONDS), stop = this.end;
      for (; this._next < this.piece.notes.length; this._next++) {
        const note = this.piece.notes[this._next], end = Math.min(note.onset + note.duration, stop);
        if (note.onset >= stop || this._time(note.onset) > horizon) break;
        if (end <= this._beat + 1e-6 || (note.onset < this._beat - 1e-6 && note.drum)) continue;
        const start = Math.max(this._time(Math.max(note.onset, this._beat)), audio.currentTime);
        if (this._voices.size < MOST_VOICES) (note.drum ? this._strike : this._sing).call(this, note, start, Math.max(0.03, this._time(end) - start));
      }
      if (audio.currentTime > this._time(stop) + 0.25) {
        this._halt();
        this._beat = stop;
        this._until = Infinity;
        if (this.onend) this.onend();
      }
    }
    _voice(source, gain, note, stop) {
      const pan = this.audio.createStereoPanner();
      pan.pan.value = Math.max(-0.5, Math.min(0.5, note.drum ? 0 : (note.track - 1.5) * 0.16));
      source.connect(gain).connect(pan).connect(this._master);
      const voice = { source, gain: gain.gain };
      this._voices.add(voice);
      source.onended = () => { this._voices.delete(voice); pan.disconnect(); };
      source.stop(stop);
    }
    _sing(note, start, seconds) {
      const [partials, attack, decay, release, loudness] = FAMILIES[(note.program >> 3) & 15];
      if (!this._waves.has(partials)) this._waves.set(partials, this.audio.createPeriodicWave(new Float32Array(partials.length + 1), new Float32Array([0, ...partials])));
      const source = this.audio.createOscillator(), gain = this.audio.createGain(), peak = 0.2 * loudness * Math.pow(Math.min(127, note.velocity) / 100, 1.4);
      source.setPeriodicWave(this._waves.get(partials));
      source.frequency.value = 440 * Math.pow(2, (note.pitch - 69) / 12);
      const rise = Math.min(attack, seconds / 2);
      gain.gain.setValueAtTime(0, start);
      gain.gain.linearRampToValueAtTime(peak, start + rise);
      if (decay) gain.gain.setTargetAtTime(0.12 * peak, start + rise, decay * Math.pow(2, (60 - note.pitch) / 24));
      gain.gain.setTargetAtTime(0, start + seconds, release / 3);
      source.start(start);
      this._voice(source, gain, note, start + seconds + release * 2);
    }
    _strike(note, start) {
      const [above, seconds, tone] = DRUMS[note.pitch] || [4000, 0.06], peak = 0.35 * Math.pow(Math.min(127, note.velocity) / 100, 1.4);
      const strike = (source, strength) => {
        const gain = this.audio.createGain();
        gain.gain.setValueAtTime(strength, start);
        gain.gain.exponentialRampToValueAtTime(SILENT, start + seconds);
        source.start(start);
        this._voice(source, gain, note, start + seconds);
      };
      if (tone) {
        const source = this.audio.createOscillator();
        source.frequency.setValueAtTime(tone * 2.2, start);
        source.frequency.exponentialRampToValueAtTime(tone, start + 0.05);
        strike(source, peak * 1.4);
      }
      if (above || !tone) {
        const source = this.audio.createBufferSource(), filter = this.audio.createBiquadFilter();
        source.buffer = this._noise;
        source.loop = true;
        filter.type = "highpass";
        filter.frequency.value = above;
        const plain = source.connect.bind(source);
        source.connect = (node) => (plain(filter), filter.connect(node));
        strike(source, peak);
      }
    }
  }

  musictrain.Player = Player;
  musictrain.Piece = Piece;
})();
