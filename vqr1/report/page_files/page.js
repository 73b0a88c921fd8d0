"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const HEIGHT = 200, PRINTED = 330; // CSS pixels
  const plots = []; // {figure, at, chart, hidden}
  let printing = false;

  // float32: NaN is a figure without a value, which leaves a gap; infinity a step at which it was not measured.
  const numbers = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const values = new Float32Array(bytes.buffer); // little-endian, as every browser's machine is
    return Array.from(values, (value) => (Number.isNaN(value) ? null : Number.isFinite(value) ? value : undefined));
  };
  const ink = () => (dark.matches && !printing ? { text: "#a3a8b2", grid: "#2a2e36", key: "dark" } : { text: "#5a5f68", grid: "#e6e7ea", key: "light" });
  const pale = (colour, share) => colour + Math.round(share * 255).toString(16).padStart(2, "0");
  const shown = (value) => (value === null ? "undefined" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : value.toFixed(3));

  function unpack(figure) {
    if (figure.columns) return;
    figure.columns = [numbers(figure.steps)];
    figure.of = [null]; // which series a column belongs to, and as what
    figure.series.forEach((one, i) => {
      for (const kind of ["raw", "low", "high", "mean"]) {
        if (!one[kind]) continue;
        figure.columns.push(numbers(one[kind]));
        figure.of.push({ i, kind });
      }
    });
  }

  // The lines that a curve is held against, named where they are.
  const ceilings = (figure, colours) => (chart) => {
    const { ctx, bbox } = chart, ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colours.text;
    ctx.lineWidth = ratio;
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    let last = Infinity, end = false; // names that would lie on each other go to either side in turn
    for (const line of [...figure.lines].sort((a, b) => a.value - b.value)) {
      const y = Math.round(chart.valToPos(line.value, "y", true));
      ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      end = last - y < 13 * ratio && !end;
      last = y;
      ctx.fillText(line.name, end ? bbox.left + bbox.width - ctx.measureText(line.name).width - 4 * ratio : bbox.left + 4 * ratio, y - 1);
    }
    ctx.restore();
  };

  function options(plot, width) {
    const figure = plot.figure, colours = ink();
    const series = [{}], bands = [];
    figure.of.slice(1).forEach((of, n) => {
      const look = data.looks[figure.series[of.i].look], colour = look[colours.key];
      const dash = look.dash.map((d) => 2 * d);
      const one = { show: !plot.hidden.has(figure.series[of.i].arm), spanGaps: false, points: { show: false } };
      if (of.kind === "mean") Object.assign(one, { stroke: colour, width: 1.75, dash, points: { show: figure.points, size: 5, fill: colour } });
      else if (of.kind === "raw") Object.assign(one, { stroke: pale(colour, 0.28), width: 1 });
      else Object.assign(one, { stroke: "transparent", width: 0 });
      series.push(one);
      if (of.kind === "high") bands.push({ series: [n + 1, n], fill: pale(colour, 0.16) });
    });
    const axis = { stroke: colours.text, font: "11px system-ui, sans-serif", grid: { stroke: colours.grid, width: 1 }, ticks: { stroke: colours.grid, width: 1, size: 4 } };
    return {
      width, height: HEIGHT, series, bands,
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false }, sync: { key: plot.experiment } },
      scales: {
        x: { time: false },
        y: { range: (_, low, high) => {
          if (low === null) [low, high] = [0, 1];
          for (const line of figure.lines) { low = Math.min(low, line.value); high = Math.max(high, line.value); }
          const pad = 0.06 * (high - low || Math.abs(high) || 1);
          return [low - pad, high + (figure.lines.length ? 2 : 1) * pad];
        } },
      },
      axes: [
        { ...axis, size: 26, gap: 2, label: data.axis, labelSize: 16, labelFont: axis.font, labelGap: -2, space: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] },
        { ...axis, size: 50, space: 26 },
      ],
      hooks: {
        draw: [ceilings(figure, colours)],
        setCursor: [(chart) => {
          const i = chart.cursor.idx;
          if (i == null) { plot.readout.textContent = ""; return; }
          const told = figure.of.map((of, n) => [of, n]).filter(([of]) => of && of.kind === "mean" && !plot.hidden.has(figure.series[of.i].arm) && figure.columns[n][i] !== undefined)
            .map(([of, n]) => `${figure.series[of.i].name} ${shown(figure.columns[n][i])}`);
          plot.readout.textContent = `step ${figure.columns[0][i]}: ${told.slice(0, 6).join("; ")}${told.length > 6 ? "; …" : ""}`;
        }],
      },
    };
  }

  function draw(plot) {
    const width = printing ? PRINTED : Math.floor(plot.at.clientWidth);
    if (!width) return; // in closed details
    plot.width = width;
    unpack(plot.figure);
    plot.chart?.destroy();
    plot.at.replaceChildren();
    plot.chart = new uPlot(options(plot, width), plot.figure.columns, plot.at);
    plot.at.dataset.drawn = "";
  }

  for (const at of document.querySelectorAll(".canvas")) {
    const holder = at.closest(".plots");
    plots.push({ at, figure: data.figures[+at.dataset.figure], experiment: holder.dataset.experiment, hidden: new Set(), readout: at.parentElement.querySelector(".readout") });
  }
  const again = () => plots.forEach(draw);
  const watch = new ResizeObserver((entries) => {
    if (printing) return;
    for (const entry of entries) {
      const plot = plots.find((one) => one.at === entry.target), width = Math.floor(entry.target.clientWidth);
      if (!width || width === plot.width) continue;
      if (plot.chart) { plot.width = width; plot.chart.setSize({ width, height: HEIGHT }); } else draw(plot);
    }
  });
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const show = button.getAttribute("aria-pressed") === "false", arm = +button.dataset.arm;
      button.setAttribute("aria-pressed", String(show));
      for (const plot of plots) {
        if (plot.experiment !== button.dataset.experiment) continue;
        show ? plot.hidden.delete(arm) : plot.hidden.add(arm);
        draw(plot);
      }
    });
  }
  const print = (on) => { if (printing !== on) { printing = on; again(); } };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches));
  dark.addEventListener("change", again);
  again();
  plots.forEach((plot) => watch.observe(plot.at));
  document.documentElement.dataset.ready = "";
})();
