"use strict";

/* Charts: one cursor for all of them; each says its values above the plot. */
const tone = (series) => `color:var(--${series.tone})`;
const PAD = { left: 50, right: 10, top: 8, bottom: 20 };
function niceTicks(low, high, count, isWhole) {
  const raw = Math.max((high - low) / count || 1, isWhole ? 1 : 0), power = 10 ** Math.floor(Math.log10(raw));
  const step = (isWhole && power === 1 ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((m) => m * power).find((one) => one >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9), number = Math.floor(high / step + 1e-9) - first + 1;
  // Values are strangers': beyond what a double can tell apart there are no ticks between.
  return Array.from({ length: Math.max(0, Math.min(number, 24)) }, (_, i) => (first + i) * step);
}
function logTicks(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.max(first + 1, Math.ceil(Math.log10(high)));
  return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
}
const canDraw = (chart) => (value) => isNumber(value) && (!chart.log || value > 0);
function valueScale(chart, points, top, bottom) {
  const isDrawn = canDraw(chart), values = points.flatMap((point) => chart.stacked ? [chart.series.reduce((sum, one) => sum + (one.of(point) || 0), 0)] : chart.series.map((one) => one.of(point)));
  const good = values.filter(isDrawn);
  let low = Math.min(...good), high = Math.max(...good);
  if (!good.length) [low, high] = [0, 1];
  if (chart.log) {
    const ticks = logTicks(low, high), [a, b] = [Math.log(ticks[0]), Math.log(ticks.at(-1))];
    return { ticks, at: (value) => bottom - ((Math.log(value) - a) / (b - a)) * (bottom - top) };
  }
  if (chart.fromZero) low = 0;
  const slack = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  high += slack;
  if (!chart.fromZero) low -= slack;
  const wanted = Math.max(2, Math.min(6, (bottom - top) / 26));
  const unit = chart.unitFor ? chart.unitFor(high) : 1;
  return { ticks: niceTicks(low / unit, high / unit, wanted, chart.stacked).map((tick) => tick * unit), at: (value) => bottom - ((value - low) / (high - low)) * (bottom - top) };
}
function windowScale(points, left, right) {
  const first = points[0].window, last = points.at(-1).window, inset = Math.min(14, (right - left) / 2 / points.length);
  const width = right - left - 2 * inset;
  return { first, last, at: (window) => (first === last ? (left + right) / 2 : left + inset + ((window - first) / (last - first)) * width) };
}
function linePath(points, series, x, y, isDrawn) {
  let path = "", pen = "M";
  for (const point of points) {
    const value = series.of(point);
    if (!isDrawn(value)) { pen = "M"; continue; }
    path += `${pen}${x.at(point.window).toFixed(1)} ${y.at(value).toFixed(1)}`;
    pen = "L";
  }
  return path;
}
/* Marks that would overlap are left out: one for each `gap` pixels, the newest first. */
function thinned(points, x, gap) {
  const kept = [];
  let free = Infinity;
  for (let i = points.length - 1; i >= 0; i--) {
    const at = x.at(points[i].window);
    if (at > free) continue;
    free = at - gap + 0.01;
    kept.push(points[i]);
  }
  return kept.reverse();
}
function drawLines(chart, all, x, y) {
  const points = thinned(all, x, 1.2);
  const line = (one) => svg("path", { d: linePath(points, one, x, y, canDraw(chart)), style: tone(one), fill: "none", stroke: "currentColor",
    "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-linecap": "round", "stroke-dasharray": one.dash ? "5 3" : null });
  const dots = (one) => points.filter((point) => canDraw(chart)(one.of(point))).map((point) =>
    svg("circle", { cx: x.at(point.window), cy: y.at(one.of(point)), r: 2.6, style: tone(one), fill: "currentColor" }));
  return chart.series.map((one) => [line(one), points.length <= 30 ? dots(one) : null]);
}
function drawBars(chart, points, x, y) {
  const distance = points.length > 1 ? (x.at(x.last) - x.at(x.first)) / (points.length - 1) : 30;
  const slot = Math.max(3, Math.min(30, distance)), width = Math.max(2, slot * 0.72);
  return thinned(points, x, slot).map((point) => {
    let sum = 0;
    return chart.series.map((one) => {
      const value = one.of(point) || 0, top = y.at(sum + value), height = y.at(sum) - top;
      sum += value;
      return svg("rect", { x: x.at(point.window) - width / 2, width, y: top, height, style: tone(one), fill: one.hatch && width > 5 ? "url(#hatch)" : "currentColor" });
    });
  });
}
function drawAxes(chart, x, y, width, height) {
  const digits = [0, 1, 2, 3, 4].find((places) => y.ticks.every((tick) => Math.abs(tick - Number(tick.toFixed(places))) < 1e-9)) ?? 5;
  const rows = y.ticks.map((tick) => [
    svg("line", { x1: PAD.left, x2: width - PAD.right, y1: y.at(tick), y2: y.at(tick), stroke: "var(--grid)" }),
    svg("text", { x: PAD.left - 7, y: y.at(tick) + 4, "text-anchor": "end" }, chart.axis(tick, digits))]);
  const ticks = niceTicks(x.first, x.last, Math.max(2, Math.min(8, width / 70)), true);
  const edge = (tick) => (x.at(tick) > width - 24 ? "end" : "middle");
  const columns = ticks.map((tick) => svg("text", { x: edge(tick) === "end" ? width - 4 : x.at(tick), y: height - 4, "text-anchor": edge(tick) }, grouped(tick)));
  return [...rows, ...columns];
}
function hatchPattern() {
  return svg("defs", {}, svg("pattern", { id: "hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 4, height: 4, fill: "var(--card)" }), svg("rect", { width: 2.4, height: 4, fill: "var(--bad-fill)" })));
}
function nearest(points, window) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point.window - window) <= Math.abs(best.window - window)) best = point;
  return best;
}
/* `series`: name, tone, of(point), format; `axis`: a tick's text. */
function makeChart(chart) {
  const plot = el("div", { class: "plot", style: `height:${chart.height}px` });
  const readout = el("div", { class: "readout" });
  const graph = svg("svg", { tabindex: 0, role: "slider", "aria-label": `${chart.title}, by window`, "aria-orientation": "horizontal",
    onkeydown: onKey, onpointermove: onPointer, onpointerdown: onPointer, onpointerleave: onLeave, onblur: () => setCursor(null), onclick: onClick });
  const node = el("div", { class: "card" }, el("div", { class: "row" }, el("h3", {}, chart.title)), readout, plot);
  let points = [], x = null, y = null;
  plot.append(graph);
  new ResizeObserver(draw).observe(plot);

  function draw() {
    const width = plot.clientWidth, height = plot.clientHeight;
    graph.replaceChildren();
    if (!width) return;
    if (!points.length) {
      graph.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, chart.empty || "nothing yet: the first window is not closed"));
      return readout.replaceChildren();
    }
    x = windowScale(points, PAD.left, width - PAD.right);
    y = valueScale(chart, points, PAD.top, height - PAD.bottom);
    const marks = chart.stacked ? drawBars(chart, points, x, y) : drawLines(chart, points, x, y);
    fill(graph, {}, [chart.stacked ? hatchPattern() : null, ...drawAxes(chart, x, y, width, height), ...marks.flat(3), svg("g", { class: "cursor" })]);
    showCursor();
  }
  function showCursor() {
    if (!points.length || !x) return;
    const point = view.cursor === null ? points.at(-1) : nearest(points, view.cursor);
    const key = (series) => el("span", { class: `key ${chart.stacked ? "" : "line"} ${series.dash ? "dash" : ""} ${series.hatch ? "hatch" : ""}`, style: tone(series), "aria-hidden": "true" });
    const one = (series) => el("span", { class: "nowrap" }, key(series), `${series.name} `, el("b", {}, series.format(series.of(point))));
    const more = chart.series.map((series) => series.more?.(point)).filter(Boolean).map((text) => el("span", { class: "clip", title: text }, text));
    readout.replaceChildren(windowLink(point.window), ...chart.series.map(one), ...more);
    const text = chart.series.map((series) => `${series.name} ${series.format(series.of(point))}`).join(", ");
    fill(graph, { "aria-valuemin": points[0].window, "aria-valuemax": points.at(-1).window, "aria-valuenow": point.window, "aria-valuetext": `window ${point.window}: ${text}` }, []);
    const group = graph.querySelector(".cursor");
    if (!group || view.cursor === null) return group && group.replaceChildren();
    const at = x.at(point.window);
    const dots = chart.stacked ? [] : chart.series.filter((series) => canDraw(chart)(series.of(point))).map((series) =>
      svg("circle", { cx: at, cy: y.at(series.of(point)), r: 4, style: tone(series), fill: "currentColor", stroke: "var(--card)", "stroke-width": 1.5 }));
    group.replaceChildren(svg("line", { x1: at, x2: at, y1: PAD.top, y2: plot.clientHeight - PAD.bottom, stroke: "var(--soft)", "stroke-dasharray": "2 2" }), ...dots);
  }
  function onPointer(event) {
    if (!points.length || !x) return;
    const at = event.clientX - graph.getBoundingClientRect().left;
    const closest = points.reduce((best, point) => (Math.abs(x.at(point.window) - at) <= Math.abs(x.at(best.window) - at) ? point : best));
    setCursor(closest.window);
  }
  function onLeave(event) { if (event.pointerType === "mouse") setCursor(null); }
  function onClick(event) { if (event.pointerType === "mouse" && view.cursor !== null) location.hash = `#/window/${view.cursor}`; }
  function onKey(event) {
    const at = view.cursor === null ? points.length - 1 : points.indexOf(nearest(points, view.cursor));
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 10, PageDown: at + 10, Home: 0, End: points.length - 1 }[event.key];
    if (event.key === "Escape") setCursor(null);
    if (event.key === "Enter" && points.length) location.hash = `#/window/${points[at].window}`;
    if (to === undefined || !points.length) return;
    event.preventDefault();
    setCursor(points[Math.max(0, Math.min(points.length - 1, to))].window);
  }
  const made = { node, showCursor, show: (newPoints) => { points = newPoints; draw(); } };
  view.charts.push(made);
  return made;
}
function setCursor(window) {
  if (window === view.cursor) return;
  view.cursor = window;
  for (const chart of view.charts) chart.showCursor();
}
