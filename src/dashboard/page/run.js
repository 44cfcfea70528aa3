"use strict";

/* The run at a glance. */
function history() { return known.overview.history; }
function closedWindow(overview) { return overview.newest?.phase === "closed" ? overview.newest : overview.last_closed; }
function tokensSoFar(overview) {
  const lines = overview.history, sum = lines.reduce((all, line) => all + line.tokens, 0);
  const closed = closedWindow(overview), windows = closed ? closed.window + 1 : lines.length;
  let estimate = 0, before = { window: -1, tokens: lines[0]?.tokens || 0 };
  for (const line of lines) {
    const between = line.window - before.window - 1;
    estimate += line.tokens + between * (line.tokens + before.tokens) / 2;
    before = line;
  }
  return { sum, estimate, known: lines.length, windows, hasGaps: lines.length < windows };
}
function lossTile(lines) {
  const now = lines.findLast((line) => isNumber(line.loss));
  if (!now) return tile("Loss now", NONE, "no window is closed yet");
  const earlier = lines.filter((line) => line.window < now.window && isNumber(line.loss));
  const then = nearest(earlier.filter((line) => line.window >= now.window - 10), now.window - 10) || earlier.at(-1);
  const change = then && now.loss - then.loss;
  const text = then && el("span", { class: change > 0 ? "bad" : "good" }, signed(change, 4));
  return tile("Loss now", [now.loss.toFixed(4), el("small", {}, " nats/token")], then ? el("span", {}, text, ` over ${plural(now.window - then.window, "window")}`) : "no earlier window known",
    `perplexity ${or(Math.exp(now.loss), (value) => (value < 1000 ? value.toFixed(1) : scaled(value, "")))}`);
}
function tokensTile(overview) {
  const tokens = tokensSoFar(overview), speed = overview.history.at(-1)?.tokens_per_second;
  if (!tokens.known) return tile("Tokens so far", NONE, "no window is closed yet");
  const value = tokens.hasGaps ? `≈ ${scaled(tokens.estimate, "")}` : scaled(tokens.sum, "");
  const line = tokens.hasGaps ? `at least ${scaled(tokens.sum, "")} (${grouped(tokens.known)} read)` : `in ${plural(tokens.windows, "closed window")}`;
  return tile("Tokens so far", value, `${rate(speed)} in window ${grouped(overview.history.at(-1).window)}`, line);
}
function minersTile(win) {
  const active = win.peers.filter((row) => row.role === "miner" && row.active);
  const here = active.filter((row) => ["delivered", "pinned", "merged"].includes(row.state) || isNumber(row.bytes)).length;
  const off = win.peers.filter((row) => row.role === "miner" && !row.active).length;
  return tile(`Delivered, window ${grouped(win.window)}`, [grouped(here), el("small", {}, ` of ${grouped(active.length)} active`)], `${plural(off, "miner")} off`, plural(win.peers.filter((row) => row.role === "validator").length, "validator"));
}
const stateCount = (win, state) => win.peers.filter((row) => row.state === state).length;
const uploaded = (win) => win.peers.reduce((sum, row) => sum + (row.bytes || 0), 0);
function reasonCounts(win) {
  const counts = {};
  for (const row of win.peers) if (row.reason) counts[row.reason] = (counts[row.reason] || 0) + 1;
  return counts;
}
const byCount = (counts) => Object.entries(counts || {}).sort((a, b) => b[1] - a[1]);
const reasonsText = (counts) => byCount(counts).map(([name, count]) => `${count} ${words(name)}`).join(", ");
function outcomeTile(closed) {
  if (!closed) return tile("Merged", NONE, "no window is closed yet");
  const excluded = stateCount(closed, "excluded"), reasons = reasonsText(reasonCounts(closed));
  return tile(`Merged, window ${grouped(closed.window)}`, [grouped(stateCount(closed, "merged")), el("small", {}, " updates")], el("span", { class: excluded ? "bad" : null }, excluded ? `✕ ${grouped(excluded)} excluded` : "none excluded"), el("span", { class: "clip", title: reasons }, reasons));
}
function bytesTile(closed) {
  if (!closed) return tile("Bytes", NONE, "no window is closed yet");
  const updates = closed.peers.filter((row) => isNumber(row.bytes)).length, up = uploaded(closed);
  return tile(`Bytes, window ${grouped(closed.window)}`, [el("small", {}, "↑ "), bytes(up)], `${updates} updates of ${bytes(updates ? up / updates : null)}`, `↓ ${bytes(closed.delta_bytes)} delta, to each peer`);
}
function weightTile(closed) {
  const weights = (closed?.peers || []).map((row) => row.weight || 0).filter((weight) => weight > 0).sort((a, b) => b - a);
  if (!weights.length) return tile("Largest weight", NONE, "nobody has earned any yet");
  const half = weights.reduce(([sum, number], weight) => (sum < 0.5 ? [sum + weight, number + 1] : [sum, number]), [0, 0])[1];
  return tile("Largest weight", percent(weights[0]), `half is held by ${plural(half, "peer")}`, `of ${grouped(weights.length)} with any weight`);
}
function overviewCharts() {
  const chart = (title, series, more) => makeChart({ title, series, axis: (tick) => shortScaled(tick, ""), height: 96, ...more });
  return [
    chart("Loss, nats per token", [{ name: "loss", tone: "blue", of: (line) => line.loss, format: fixed(4) }], { axis: (tick, digits) => tick.toFixed(digits), height: 240 }),
    chart("Throughput, tokens per second", [{ name: "throughput", tone: "blue", of: (line) => line.tokens_per_second, format: rate, more: (line) => `window of ${span(line.seconds)}` }], { fromZero: true }),
    chart("Updates per window", [{ name: "merged", tone: "good-fill", of: (line) => line.merged, format: grouped },
      { name: "excluded", tone: "bad-fill", hatch: true, of: (line) => line.excluded, format: grouped, more: (line) => reasonsText(line.reasons) }], { stacked: true, fromZero: true }),
    chart("Bytes per window, log scale", [{ name: "updates ↑", tone: "blue", of: (line) => line.update_bytes, format: bytes }, { name: "delta ↓", tone: "good", dash: true, of: (line) => line.delta_bytes, format: bytes }], { log: true, axis: (tick) => shortScaled(tick, "B") }),
  ];
}
function rangeButtons(onChange) {
  const names = { all: "all windows", recent: `last ${RECENT}` };
  const buttons = Object.entries(names).map(([name, text]) => el("button", { type: "button", class: "small", "aria-pressed": String(memory.range === name), onclick: () => pick(name) }, text));
  function pick(name) {
    memory.range = name;
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(Object.keys(names)[index] === name)));
    onChange();
  }
  return el("div", { class: "row push", role: "group", "aria-label": "windows in the charts", style: "gap:4px" }, buttons);
}
const inRange = (points) => (memory.range === "all" || !points.length ? points : points.filter((point) => point.window > points.at(-1).window - RECENT));

/* A peer's line on the roster: what it does now, and what became of it last. */
function rosterRows(overview) {
  const closed = closedWindow(overview), before = new Map((closed?.peers || []).map((row) => [row.peer, row]));
  return overview.newest.peers.map((row) => {
    const last = before.get(row.peer) || null;
    const pick = (name) => row[name] ?? last?.[name] ?? null;
    return { ...row, weight: pick("weight"), rating: pick("rating"), credit: pick("credit"), last, nowState: stateName(row, overview.newest), lastState: stateName(last, closed) };
  });
}
function rosterColumns(overview) {
  const closed = closedWindow(overview), isOpen = overview.newest.phase !== "closed";
  const current = `window ${grouped(overview.newest.window)}, now`, group = closed ? `window ${grouped(closed.window)}, closed` : "no window is closed yet";
  return [
    { head: "peer", of: (row) => row.peer, cell: (row) => peerLink(row.peer) },
    { head: "role", of: roleName, cell: roleName },
    isOpen && { head: "state", group: current, of: (row) => row.nowState, cell: (row) => [stateMark(row.nowState), row.reason ? soft(` ${words(row.reason)}`) : ""], tip: whyText },
    ...standingColumns("standing"),
    { head: "outcome", group, of: (row) => row.lastState, cell: (row) => stateMark(row.lastState) },
    ...updateColumns((row) => row.last, group),
  ].filter(Boolean);
}
const standingColumns = (group) => [
  byNumber("weight", (row) => row.weight, percent, { group, title: "its share of the reward" }),
  byNumber("rating", (row) => row.rating, fixed(2), { group, title: "how its updates do beside those of others: μ − 3σ" }),
  byNumber("credit", (row) => row.credit, fixed(2), { group, label: "credit, nats", title: "evidence that it trains on what it is assigned" }),
];
const updateColumns = (of, group) => [
  byNumber("receipt after", (row) => of(row)?.seconds, span, { group, title: "from the window's opening to the receipt" }),
  byNumber("update", (row) => of(row)?.bytes, bytes, { group, title: "size of the update" }),
  byNumber("loss", (row) => of(row)?.loss, fixed(4), { group, title: "of the global model on the first of its sequences, nats per token" }),
  { head: "why not", why: true, group, of: (row) => whyText(of(row)), cell: (row) => why(of(row)), tip: (row) => whyText(of(row)) || null },
];
const rosterText = (row) => [row.peer, roleName(row), row.nowState, row.lastState, row.state, whyText(row), whyText(row.last)].join(" ");

function overviewView() {
  const charts = overviewCharts(), tiles = el("div", { class: "tiles" }), note = soft();
  const showCharts = () => charts.forEach((chart) => chart.show(inRange(history())));
  const table = makeTable("roster", "Roster", rosterColumns, rosterText);
  const range = rangeButtons(showCharts);
  const curves = el("section", {}, el("div", { class: "row", style: "margin-bottom:8px" }, el("h2", {}, "By window"), note, range), el("div", { class: "charts" }, charts.map((chart) => chart.node)));
  const node = [tiles, curves, table.node];
  function update() {
    const overview = known.overview, closed = closedWindow(overview), lines = overview.history;
    tiles.replaceChildren(lossTile(lines), tokensTile(overview), minersTile(overview.newest), outcomeTile(closed), bytesTile(closed), weightTile(closed));
    const all = closed ? closed.window + 1 : 0;
    range.hidden = lines.length <= RECENT;
    curves.hidden = !lines.length;
    note.textContent = lines.length < all ? `${grouped(lines.length)} of ${grouped(all)} closed windows read: the newest, and evenly spread ones` : plural(lines.length, "closed window");
    showCharts();
    table.show(rosterRows(overview), overview);
  }
  return { node, update };
}
function emptyView() {
  const url = known.overview.url;
  return { update() {}, node: el("section", { class: "card" }, el("h2", {}, "The run has not begun"),
    el("p", {}, "No window is open. The first one opens when the aggregator runs and enough miners have written their wish into the lobby."),
    url && [el("p", {}, "To take part:"), el("p", {}, el("code", {}, `brigade join '${url}' --dir me --bucket YOUR_BUCKET`), " ", copyButton(`brigade join '${url}' --dir me --bucket YOUR_BUCKET`, "the command"))]) };
}
