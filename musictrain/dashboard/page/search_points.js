// The points of a search as the charts take them: one row a point, and the settings and results as axes of parallel lines.
"use strict";

(function (M) {
  const TONES = { finished: "good", "given up": "warn", failed: "bad", training: "busy" };
  const LONGEST_VALUE = 60;

  M.searchPill = (state) => M.element("span", { class: "pill", "data-tone": TONES[state] || null, text: state });

  // A value as text: numbers as everywhere, kinds as they are, of a class its name.
  M.valueText = function (value) {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return M.number(value);
    if (typeof value === "object" && value.class_path) return String(value.class_path).split(".").pop();
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return text.length > LONGEST_VALUE ? `${text.slice(0, LONGEST_VALUE - 1)}…` : text;
  };

  M.resultText = function (result) {
    if (!result || !M.isNumber(result[0])) return null;
    const half = M.isNumber(result[2]) && M.isNumber(result[1]) ? (result[2] - result[1]) / 2 : null;
    const digits = half ? Math.min(Math.max(Math.ceil(Math.log10(Math.abs(result[0]) / half)) + 2, 2), 7) : 5;
    return { mean: M.number(result[0], digits), half: half === null ? "" : `± ${M.number(half, 2)}`, seeds: result[3] };
  };

  // Which parameters a point differs in from others: those with more than one value.
  M.varying = (data) => data.parameters.filter((each) => new Set(data.points.map((point) => JSON.stringify(point.values[each.key]))).size > 1);

  const isNumeric = (values) => values.every((value) => value === null || M.isNumber(value));

  // In the form that the page over all runs takes: settings and metrics by place of the point.
  M.asOverview = function (data, objective) {
    const settings = data.parameters.map((parameter) => {
      const values = data.points.map((point) => point.values[parameter.key] ?? null);
      const told = { key: parameter.key, log: Boolean(parameter.log) };
      if (isNumeric(values)) return { ...told, values };
      const kinds = [...new Set(values.filter((value) => value !== null).map(M.valueText))].sort();
      return { ...told, kinds, values: values.map((value) => (value === null ? null : kinds.indexOf(M.valueText(value)))) };
    });
    const results = data.points.map((point) => (point.results[objective] ? point.results[objective][0] : null));
    const varying = new Set(M.varying(data).map((each) => each.key));
    return {
      written: data.written,
      table: { name: data.points.map((point) => point.name) },
      settings: settings.filter((setting) => varying.has(setting.key)),
      metrics: data.objectives.length ? [{ key: data.objectives[objective].metric, mean: results }] : [],
    };
  };
})(window.musictrain);
