// Curves of the chosen runs over one another, drawn by plotly; without it, their numbers are in the legend all the same.
"use strict";

(function (M) {
  const PALETTE = {
    light: ["#2257a8", "#cc5a1c", "#2e8b57", "#8a4fb0", "#b58a1d", "#168c9c", "#c23b6a", "#6b7480", "#7a4b21", "#4a57d6"],
    dark: ["#86b3f2", "#f0975f", "#74c69a", "#c39be6", "#e0bd5f", "#6cc5d0", "#f08bb0", "#a8b0ba", "#c79a72", "#9aa4ff"],
  };
  const FEW_POINTS = 30;
  const MOST_IN_HOVER = 14;
  const view = { metric: "", logX: false, logY: false };
  let drawn = "";

  M.MOST_CHOSEN = PALETTE.light.length;
  M.runColour = (place) => (PALETTE[M.theme()] || PALETTE.light)[place % PALETTE.light.length];

  // Plotly reads a little HTML in texts; names are to stay what they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function pointsOf(told) {
    return { x: told[0].split(",").map(Number), y: told[1].split(",").map(Number) };
  }

  function extremes(points) {
    let low = 0;
    points.y.forEach((value, place) => {
      if (value < points.y[low]) low = place;
    });
    return { last: points.y[points.y.length - 1], low: points.y[low], lowStep: points.x[low] };
  }

  function traces(curves) {
    return curves.map(({ run, colour, points }) => ({
      type: "scatter",
      mode: points.x.length <= FEW_POINTS ? "lines+markers" : "lines",
      x: points.x,
      y: points.y,
      name: plain(M.shortName(run.name)),
      line: { color: colour, width: 1.9 },
      marker: { size: 5, color: colour },
      hovertemplate: "%{y:.5~g}",
    }));
  }

  function layout() {
    const [quiet, line, family] = [M.colour("quiet"), M.colour("line"), getComputedStyle(document.body).fontFamily];
    const axis = { zeroline: false, gridcolor: line, linecolor: line, tickfont: { size: 11, color: quiet } };
    const coarse = window.matchMedia("(pointer: coarse)").matches;
    return {
      uirevision: `${view.metric}${view.logX}${view.logY}`,
      autosize: true,
      margin: { l: 58, r: 18, t: 8, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 12, color: quiet },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: M.colour("card"), bordercolor: line, font: { family, size: 12, color: M.colour("ink") } },
      dragmode: coarse ? false : "zoom",
      xaxis: { ...axis, type: view.logX ? "log" : "linear", showgrid: false, showline: true, ticks: "outside", ticklen: 4, tickcolor: line, fixedrange: coarse, rangemode: "tozero", hoverformat: ",.0f", tickformat: view.logX ? "~s" : ",", title: { text: "optimizer steps", standoff: 4, font: { size: 11, color: M.colour("faint") } } },
      yaxis: { ...axis, type: view.logY ? "log" : "linear", fixedrange: coarse, nticks: 7, tickformat: ",~g" },
    };
  }

  function showLegend(curves, without) {
    const legend = M.byId("legend");
    const items = curves.map(({ run, colour, points }) => {
      const { last, low, lowStep } = extremes(points);
      const swatch = M.element("i");
      const item = M.element("li", { title: `${run.name}\nlast ${M.number(last)}, lowest ${M.number(low)} at step ${M.count(lowStep)}` }, swatch, M.element("span", { class: "name", text: M.shortName(run.name) }), M.element("b", { text: M.number(last) }));
      item.style.setProperty("--swatch", colour);
      return item;
    });
    legend.replaceChildren(...items, ...without.map((run) => M.element("li", { title: run.name }, M.element("i"), M.element("span", { class: "name quiet", text: M.shortName(run.name) }), M.element("span", { class: "quiet", text: "no curve" }))));
  }

  function tell(curves, chosen) {
    const note = M.byId("curve-note");
    note.hidden = chosen.length > 0;
    M.setText(note, "Choose runs in the table to lay their curves over one another.");
    const words = curves.map(({ run, points }) => `${M.shortName(run.name)}: last ${M.number(extremes(points).last)}`).join("; ");
    M.byId("plot").setAttribute("aria-label", words ? `${view.metric} by optimizer steps. ${words}.` : "No curves are chosen");
  }

  // chosen: [{run, place}], the runs and the places of their colours; data: of the page
  M.showCurves = function (data, chosen) {
    const told = (data.curves && data.curves[view.metric]) || {};
    const signature = JSON.stringify([view, M.theme(), Boolean(window.Plotly), chosen.map(({ run, place }) => [run.name, place, told[run.index]])]);
    if (signature === drawn) return;
    drawn = signature;
    const curves = chosen.filter(({ run }) => told[run.index]).map(({ run, place }) => ({ run, colour: M.runColour(place), points: pointsOf(told[run.index]) }));
    showLegend(curves, chosen.filter(({ run }) => !told[run.index]).map(({ run }) => run));
    tell(curves, chosen);
    const plot = M.byId("plot");
    if (!window.Plotly) {
      plot.replaceChildren(M.element("p", { class: "no-plotly", text: "Without plotly.js there are no curves here; the numbers are beside them." }));
      return;
    }
    plot.querySelector(".no-plotly")?.remove();
    const made = layout();
    if (curves.length > MOST_IN_HOVER) made.hovermode = "closest";
    window.Plotly.react(plot, traces(curves), made, { displayModeBar: false, responsive: true, showTips: false });
  };

  M.curveView = view;
})(window.musictrain);
