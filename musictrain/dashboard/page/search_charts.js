// The charts of a search, drawn by plotly: the result against each setting, the curves with their rungs, the Pareto front.
"use strict";

(function (M) {
  const MOST_CHARTS = 16;
  const FEW_VALUES = 6;
  const MANY_POINTS = 150;
  const view = { logResult: false, logX: false, logY: false };
  const drawn = new Map();

  // Plotly reads a little HTML in texts; names are to stay what they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/[{}%$]/g, (sign) => `&#${sign.charCodeAt(0)};`);

  function axis(more) {
    const [quiet, line] = [M.colour("quiet"), M.colour("line")];
    const coarse = window.matchMedia("(pointer: coarse)").matches;
    return { zeroline: false, gridcolor: line, linecolor: line, tickfont: { size: 11, color: quiet }, automargin: true, fixedrange: coarse, ...more };
  }

  function layout(revision, xaxis, yaxis, more) {
    const family = getComputedStyle(document.body).fontFamily;
    const coarse = window.matchMedia("(pointer: coarse)").matches;
    return {
      uirevision: revision,
      autosize: true,
      margin: { l: 52, r: 16, t: 8, b: 34 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 12, color: M.colour("quiet") },
      showlegend: false,
      hovermode: "closest",
      hoverlabel: { bgcolor: M.colour("card"), bordercolor: M.colour("line"), align: "left", font: { family, size: 12, color: M.colour("ink") } },
      dragmode: coarse ? false : "zoom",
      xaxis: axis(xaxis),
      yaxis: axis(yaxis),
      ...more,
    };
  }

  // Draws where something differs; without plotly says so.
  function draw(plot, signature, traces, made) {
    const told = JSON.stringify([signature, M.theme(), Boolean(window.Plotly)]);
    if (drawn.get(plot) === told) return false;
    drawn.set(plot, told);
    if (!window.Plotly) {
      plot.replaceChildren(M.element("p", { class: "no-plotly", text: "Without plotly.js there is no chart here; the numbers are in the table." }));
      return false;
    }
    plot.querySelector(".no-plotly")?.remove();
    window.Plotly.react(plot, traces(), made(), { displayModeBar: false, responsive: true, showTips: false });
    return true;
  }

  const wordsOf = (data, point) => M.varying(data).filter((each) => point.values[each.key] !== undefined).map((each) => `${each.name} ${M.valueText(point.values[each.key])}`);

  function hover(data, point, objective) {
    const told = M.resultText(point.results[objective]);
    return plain([`${point.rank ? `${point.rank}. ` : ""}${point.name}`, ...wordsOf(data, point), told ? `${data.objectives[objective].metric} ${told.mean} ${told.half}` : "", `${M.count(point.step)} steps, ${point.state}`].filter(Boolean).join("\n")).replace(/\n/g, "<br>");
  }

  function colours(points, chosen) {
    const places = new Map(chosen.map(({ run, place }) => [run.index, place]));
    return points.map((point) => (places.has(point.index) ? M.runColour(places.get(point.index)) : M.colour("accent")));
  }

  function dots(data, points, objective, chosen, x, y, error) {
    const places = new Set(chosen.map(({ run }) => run.index));
    const last = data.rungs.length ? data.rungs[data.rungs.length - 1] : 0;
    const paint = colours(points, chosen);
    const full = points.map((point) => point.state === "finished" || (last && point.step >= last));
    return {
      type: "scatter",
      mode: "markers",
      x,
      y,
      customdata: points.map((point) => point.index),
      text: points.map((point) => hover(data, point, objective)),
      hovertemplate: "%{text}<extra></extra>",
      error_y: error,
      marker: { size: points.map((point) => (places.has(point.index) ? 11 : points.length > MANY_POINTS ? 5 : 7)), opacity: points.map((point) => (places.has(point.index) ? 1 : 0.75)), color: paint.map((colour, place) => (full[place] ? colour : M.colour("card"))), line: { color: paint, width: 1.6 } },
    };
  }

  function intervals(points, objective) {
    const told = points.map((point) => point.results[objective]);
    if (!told.some((each) => M.isNumber(each[1]))) return undefined;
    const part = (from, to) => told.map((each) => (M.isNumber(each[1]) ? Math.abs(each[to] - each[from]) : 0));
    return { type: "data", symmetric: false, array: part(0, 2), arrayminus: part(1, 0), thickness: 1, width: 0, color: M.colour("faint") };
  }

  // ---- the result against each setting

  // Kinds, and numbers of which there are few, stand beside one another where they would hide one another.
  function along(parameter, values) {
    const numeric = values.every(M.isNumber);
    if (numeric && new Set(values).size > FEW_VALUES) {
      const log = parameter.log && values.every((value) => value > 0);
      return { x: values, scale: { type: log ? "log" : "linear", nticks: 6, tickformat: log ? "~g" : ",~g" } };
    }
    const texts = values.map(M.valueText);
    const order = numeric ? [...new Set(values)].sort((one, other) => one - other).map(M.valueText) : [...new Set(texts)].sort();
    const width = values.length > 12 ? 0.36 : 0;
    const x = texts.map((text, place) => order.indexOf(text) + width * (((place * 0.618034) % 1) - 0.5));
    return { x, scale: { tickvals: order.map((_, place) => place), ticktext: order.map(plain), range: [-0.5, order.length - 0.5], tickangle: order.length > 4 ? undefined : 0 } };
  }

  function parameterChart(data, parameter, points, objective, chosen, onPick) {
    const host = M.byId("charts");
    let card = [...host.children].find((each) => each.dataset.key === parameter.key);
    if (!card) {
      card = M.element("div", { class: "card chart", "data-key": parameter.key }, M.element("header", {}, M.element("h3", { text: parameter.name })), M.element("p", { class: "about", text: parameter.told, title: `${parameter.key}\n${parameter.told}` }), M.element("div", { class: "plot", role: "img", tabindex: "0" }));
      host.append(card);
    }
    const plot = card.querySelector(".plot");
    const some = points.filter((point) => point.values[parameter.key] !== undefined && point.values[parameter.key] !== null);
    const values = some.map((point) => point.values[parameter.key]);
    const metric = data.objectives[objective].metric;
    plot.setAttribute("aria-label", `${metric} against ${parameter.name}, ${M.count(some.length)} points`);
    const { x, scale } = along(parameter, values);
    const signature = [parameter.key, metric, view.logResult, some.map((point) => [point.name, point.step, point.state, point.results[objective]]), chosen.map(({ run, place }) => [run.name, place])];
    const y = some.map((point) => point.results[objective][0]);
    const result = { type: view.logResult ? "log" : "linear", nticks: 6, tickformat: ",~g" };
    const fresh = draw(plot, signature, () => [dots(data, some, objective, chosen, x, y, intervals(some, objective))], () => layout(`${parameter.key}${metric}${view.logResult}`, { showgrid: false, showline: true, ticks: "outside", ticklen: 4, tickcolor: M.colour("line"), ...scale }, result));
    if (fresh && !plot.dataset.listens) {
      plot.dataset.listens = "yes";
      plot.on("plotly_click", (event) => onPick(event.points[0].customdata));
    }
  }

  M.showParameters = function (data, points, objective, chosen, onPick) {
    const order = new Map(((data.importance && data.importance.parameters) || []).map((each, place) => [each.key, place]));
    const varying = M.varying(data).sort((one, other) => (order.get(one.key) ?? 99) - (order.get(other.key) ?? 99)).slice(0, MOST_CHARTS);
    const withResult = points.filter((point) => point.results[objective] && M.isNumber(point.results[objective][0]));
    M.byId("parameters").hidden = !varying.length || !withResult.length;
    const keys = new Set(varying.map((each) => each.key));
    for (const card of [...M.byId("charts").children]) if (!keys.has(card.dataset.key)) card.remove();
    if (M.byId("parameters").hidden) return;
    for (const parameter of varying) parameterChart(data, parameter, withResult, objective, chosen, onPick);
    // In the order of what mattered, once that is known.
    const cards = new Map([...M.byId("charts").children].map((card) => [card.dataset.key, card]));
    varying.forEach((parameter, place) => {
      if (M.byId("charts").children[place] !== cards.get(parameter.key)) M.byId("charts").insertBefore(cards.get(parameter.key), M.byId("charts").children[place]);
    });
  };

  // ---- curves

  const pointsOf = (told) => ({ x: told[0].split(",").map(Number), y: told[1].split(",").map(Number) });

  function curveTraces(data, points, objective, chosen) {
    const told = data.curves[data.objectives[objective].metric] || {};
    const places = new Map(chosen.map(({ run, place }) => [run.index, place]));
    const order = points.filter((point) => told[point.index]).sort((one, other) => places.has(one.index) - places.has(other.index));
    const many = order.length > 40;
    return order.flatMap((point) => told[point.index].map((curve) => {
      const picked = places.has(point.index);
      const { x, y } = pointsOf(curve);
      return {
        type: "scatter",
        mode: x.length <= 12 ? "lines+markers" : "lines",
        x,
        y,
        text: x.map(() => hover(data, point, objective)),
        hovertemplate: "step %{x:,.0f}: %{y:.5~g}<br>%{text}<extra></extra>",
        opacity: picked || !places.size ? 1 : many ? 0.35 : 0.55,
        line: { color: picked ? M.runColour(places.get(point.index)) : M.colour("faint"), width: picked ? 2.2 : 1 },
        marker: { size: picked ? 5 : 3 },
      };
    }));
  }

  function rungShapes(data) {
    return data.rungs.slice(0, -1).map((step) => ({ type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1, line: { color: M.colour("faint"), width: 1, dash: "dot" } }));
  }

  function curveLegend(data, objective, chosen) {
    M.byId("legend").replaceChildren(
      ...chosen.map(({ run, place }) => {
        const told = M.resultText(run.results[objective]);
        const item = M.element("li", { title: [run.name, ...wordsOf(data, run)].join("\n") }, M.element("i"), M.element("span", { class: "name", text: `${run.rank ? `${run.rank}. ` : ""}${wordsOf(data, run).join(", ")}` }), M.element("b", { text: told ? told.mean : "–" }));
        item.style.setProperty("--swatch", M.runColour(place));
        return item;
      }),
    );
  }

  M.showSearchCurves = function (data, points, objective, chosen) {
    const metric = data.objectives[objective].metric;
    const told = data.curves[metric] || {};
    const num = points.filter((point) => told[point.index]).length;
    curveLegend(data, objective, chosen);
    const plot = M.byId("plot");
    const note = M.byId("curve-note");
    note.hidden = num > 0;
    M.setText(note, `No trial has recorded ${metric} yet.`);
    plot.setAttribute("aria-label", `${metric} by optimizer steps, ${M.count(num)} points. ${chosen.map(({ run }) => `${run.name}: ${(M.resultText(run.results[objective]) || {}).mean || "nothing yet"}`).join("; ")}`);
    const signature = [metric, view.logX, view.logY, data.rungs, points.map((point) => [point.name, point.state, told[point.index]]), chosen.map(({ run, place }) => [run.name, place])];
    const steps = { type: view.logX ? "log" : "linear", showgrid: false, showline: true, ticks: "outside", ticklen: 4, tickcolor: M.colour("line"), tickformat: view.logX ? "~s" : ",", title: { text: "optimizer steps", standoff: 4, font: { size: 11, color: M.colour("faint") } } };
    draw(plot, signature, () => curveTraces(data, points, objective, chosen), () => layout(`${metric}${view.logX}${view.logY}`, steps, { type: view.logY ? "log" : "linear", nticks: 7, tickformat: ",~g" }, { shapes: rungShapes(data), margin: { l: 58, r: 18, t: 8, b: 40 } }));
  };

  // ---- the front of the first two objectives

  M.showFront = function (data, points, chosen, onPick) {
    const section = M.byId("front");
    const both = points.filter((point) => [0, 1].every((place) => point.results[place] && M.isNumber(point.results[place][0])));
    section.hidden = data.objectives.length < 2 || !both.length;
    if (section.hidden) return;
    const [first, second] = data.objectives;
    const [x, y] = [0, 1].map((place) => both.map((point) => point.results[place][0]));
    const best = both.filter((point) => point.front).sort((one, other) => one.results[0][0] - other.results[0][0]);
    const plot = M.byId("front-plot");
    plot.setAttribute("aria-label", `${second.metric} against ${first.metric}; ${M.count(best.length)} of ${M.count(both.length)} points on the front`);
    const line = { type: "scatter", mode: "lines", x: best.map((point) => point.results[0][0]), y: best.map((point) => point.results[1][0]), line: { color: M.colour("good"), width: 1.6, shape: "linear" }, hoverinfo: "skip" };
    const title = (each) => ({ title: { text: plain(each.words), standoff: 6, font: { size: 11.5, color: M.colour("quiet") } }, nticks: 7, tickformat: ",~g" });
    const fresh = draw(plot, [both.map((point) => [point.name, point.state, point.front, point.results]), chosen.map(({ run, place }) => [run.name, place])], () => [line, dots(data, both, 0, chosen, x, y)], () => layout("front", { ...title(first), showline: true, showgrid: false }, title(second), { margin: { l: 58, r: 18, t: 8, b: 44 } }));
    if (fresh && !plot.dataset.listens) {
      plot.dataset.listens = "yes";
      plot.on("plotly_click", (event) => event.points[0].customdata !== undefined && onPick(event.points[0].customdata));
    }
  };

  M.searchView = view;
})(window.musictrain);
