"use strict";

/* One peer. */
function strip(moments) {
  const states = new Map(moments.map((one) => [one.window, one.state])), reasons = new Map(moments.map((one) => [one.window, one.reason]));
  const windows = history().map((line) => line.window), count = (state) => windows.filter((window) => (states.get(window) || "none") === state).length;
  const square = (window) => {
    const state = states.get(window) || "none", word = state === "none" ? "not on the roster" : reasons.get(window) ? words(reasons.get(window)) : state;
    return el("a", { class: state, href: `#/window/${window}`, tabindex: -1, title: `window ${grouped(window)}: ${word}`, "aria-label": `window ${window}: ${word}` }, state === "excluded" ? "×" : "");
  };
  const key = (state, text) => el("span", { class: "nowrap" }, el("span", { class: "strip", style: "display:inline-flex;margin:0 5px 0 0;vertical-align:-1px" }, el("a", { class: state, tabindex: -1 }, state === "excluded" ? "×" : "")), text, " ", el("b", {}, grouped(count(state))));
  return [el("div", { class: "readout" }, key("merged", "merged"), key("excluded", "excluded"), key("none", "not on the roster")), el("div", { class: "strip" }, windows.map(square))];
}
function reasonNote([row, win]) {
  if (!row?.reason) return null;
  return el("p", {}, el("b", { class: "bad" }, `✕ ${words(row.reason)}`), soft(" in "), windowLink(win.window), soft(". "), REASONS[row.reason] || "This page does not know that reason.",
    row.detail ? el("bdi", { class: "soft", style: "display:block" }, plain(row.detail)) : null);
}
function outcomesCard(peer, overview, isMiner) {
  const columns = [[peer.newest, overview.newest], [peer.last_closed, overview.last_closed]].filter(([, win]) => win);
  const heard = (row, win) => win.validators.find((one) => one.peer === row.peer);
  const scoring = [["scoring took", (row, win) => span(heard(row, win)?.seconds)], ["updates scored", (row, win) => or(heard(row, win)?.updates, grouped)]];
  const numbers = [["receipt after", "seconds", span], ["update", "bytes", bytes], ["loss of θ", "loss", (value) => `${fixed(4)(value)} nats/token`], ["share of the merge", "share", percent], ["norm", "norm", fixed(3)], ["missed in a row", "missed", (value) => plural(value, "window")]];
  const line = (name, cell) => el("tr", {}, el("th", { scope: "row", class: "soft" }, name), columns.map(([row, win]) => el("td", {}, row ? cell(row, win) : NONE)));
  return el("div", { class: "card" }, columns.map(reasonNote), el("table", { class: "fit" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "this peer in"), columns.map(([, win]) => el("th", { scope: "col" }, windowLink(win.window), ` ${win.phase}`)))),
    el("tbody", {}, line("state", (row, win) => stateMark(stateName(row, win))),
      isMiner ? numbers.map(([name, field, format]) => line(name, (row) => or(row[field], format))) : scoring.map(([name, cell]) => line(name, cell)))));
}
function peerTiles(row) {
  const role = tile("Role", roleName(row), row.role === "validator" ? "scores updates" : row.active ? "windows wait for it" : "no window waits for it");
  if (row.role === "validator") return [role];
  return [role, tile("Weight", percent(row.weight), "share of the reward"), tile("Rating", fixed(2)(row.rating), "μ − 3σ"), tile("Credit", [fixed(2)(row.credit), el("small", {}, " nats")], "trace of assigned work"),
    tile("Windows pinned", or(row.windows, grouped), "since it came"), tile("Missed", or(row.missed, grouped), "windows in a row")];
}
const minutes = (seconds) => (seconds > 90 ? 60 : 1);
function peerView(id) {
  const receipt = makeChart({ title: "Receipt after the opening", series: [{ name: "receipt after", tone: "blue", of: (one) => one.seconds, format: span }], unitFor: minutes, axis: (tick) => (tick < 60 ? `${+tick.toFixed(1)} s` : `${+(tick / 60).toFixed(1)} min`), fromZero: true, height: 130, empty: "no update of it was pinned in the windows read" });
  const size = makeChart({ title: "Update size", series: [{ name: "update", tone: "blue", of: (one) => one.bytes, format: bytes }], axis: (tick) => shortScaled(tick, "B"), fromZero: true, height: 130, empty: "no update of it was pinned in the windows read" });
  const tiles = el("div", { class: "tiles" }), outcomes = el("div"), squares = el("div", { class: "card" }), lost = el("section", { class: "card", hidden: true });
  const charts = el("section", { class: "pair" }, receipt.node, size.node);
  const showCharts = () => { const moments = inRange(known.peer?.moments || []).filter((one) => one.bytes !== null); receipt.show(moments); size.show(moments); };
  const heading = el("div", { class: "row" }, el("h2", {}, "By window"), rangeButtons(showCharts));
  const node = [el("section", { class: "row" }, el("h1", { title: id }, "Peer ", el("span", { class: "mono" }, short(id))), el("code", { class: "soft" }, id), copyButton(id, "the peer's id")), lost, tiles,
    el("section", { class: "pair" }, outcomes, squares), heading, charts];
  function update() {
    const peer = known.peer, overview = known.overview, row = peer && (peer.newest || peer.last_closed);
    lost.hidden = Boolean(row);
    lost.replaceChildren(known.trouble === "gone" || (peer && !row) ? "Nobody with this id is on the roster." : troubleText("peer"));
    const isMiner = row?.role === "miner";
    for (const part of [tiles, outcomes]) part.hidden = !row;
    for (const part of [heading, charts, squares]) part.hidden = !isMiner;
    if (!row) return;
    const merged = Object.fromEntries(Object.entries(row).map(([name, value]) => [name, value ?? peer.last_closed?.[name] ?? null]));
    tiles.replaceChildren(...peerTiles(merged));
    keepFocus(() => outcomes.replaceChildren(outcomesCard(peer, overview, isMiner)));
    if (!isMiner) return;
    heading.lastChild.hidden = peer.moments.length <= RECENT;
    showCharts();
    squares.replaceChildren(el("h2", {}, "Merged or not, by window"), ...strip(peer.moments));
  }
  return { node, update };
}
