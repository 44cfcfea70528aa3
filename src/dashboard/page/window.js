"use strict";

/* One window. */
function timeline(win) {
  const until = win.closed_at || storeNow(), total = Math.max(1, Math.max(until, win.deadline) - win.opened_at);
  const at = (ms) => `${(100 * Math.max(0, Math.min(ms - win.opened_at, total))) / total}%`;
  const ink = (tone) => `color:var(--${tone})`;
  const bar = (from, to, tone) => svg("line", { x1: at(from), x2: at(to), y1: 30, y2: 30, style: ink(tone), stroke: "currentColor", "stroke-width": 8 });
  const receipts = win.peers.filter((row) => isNumber(row.seconds)).map((row) => {
    const x = at(win.opened_at + row.seconds * 1000), isOut = row.state === "excluded";
    return svg("line", { x1: x, x2: x, y1: isOut ? 2 : 10, y2: 23, style: ink(isOut ? "bad-fill" : "good-fill"), stroke: "currentColor", "stroke-width": 1.5 });
  });
  const cut = win.cut_at || until, deadline = svg("line", { x1: at(win.deadline), x2: at(win.deadline), y1: 22, y2: 40, style: ink("ink"), stroke: "currentColor", "stroke-width": 2 });
  const key = ([tone, text]) => el("span", { class: "nowrap" }, el("span", { class: "key line", style: ink(tone), "aria-hidden": "true" }), text);
  const keys = [["blue", `train ${span((cut - win.opened_at) / 1000)}`], win.cut_at && ["soft", `score and merge ${span((until - cut) / 1000)}`], ["good-fill", "receipts"], ["bad-fill", "receipts of the excluded"], ["ink", "deadline"]];
  return el("section", { class: "card" }, svg("svg", { width: "100%", height: 42, "aria-hidden": "true", style: "overflow:visible;display:block" },
    bar(win.opened_at, win.opened_at + total, "grid"), bar(win.opened_at, cut, "blue"), bar(cut, until, "soft"), receipts, deadline), el("div", { class: "readout" }, keys.filter(Boolean).map(key)));
}
function windowFacts(win) {
  const after = (ms) => (isNumber(ms) ? [`after ${span((ms - win.opened_at) / 1000)} `, el("span", { class: "soft nowrap" }, "· ", moment(ms))] : [soft("not yet")]);
  const miners = win.peers.filter((row) => row.role === "miner" && row.active).length;
  return el("div", { class: "card" }, el("h2", {}, "Record"), facts([
    ["phase", win.phase === "closed" ? "closed" : el("b", { class: "now" }, win.phase)],
    ["opened", moment(win.opened_at)], ["deadline", ...after(win.deadline)], ["cut off", ...after(win.cut_at)], ["closed", ...after(win.closed_at)],
    ["active miners", grouped(miners)], ["merged", grouped(stateCount(win, "merged"))], ["excluded", grouped(stateCount(win, "excluded"))],
    ["updates ↑", bytes(uploaded(win))], ["delta ↓", bytes(win.delta_bytes)],
    ["state root before", fullId(win.start_state_root, "the state root before")],
    ["state root after", win.state_root ? fullId(win.state_root, "the state root after") : soft("not yet")],
  ]));
}
function validatorsCard(win) {
  const silent = win.peers.filter((row) => stateName(row, win) === "silent");
  const line = (peer, mark, seconds, updates) => el("tr", {}, el("th", { scope: "row" }, peerLink(peer)), el("td", {}, stateMark(mark)), el("td", { class: "num" }, seconds), el("td", { class: "num" }, updates));
  const lines = [...win.validators.map((one) => line(one.peer, "heard", span(one.seconds), grouped(one.updates))), ...silent.map((row) => line(row.peer, "silent", NONE, NONE))];
  const head = el("tr", {}, ["validator", "scores", "scoring took", "updates"].map((text, index) => el("th", { scope: "col", class: index > 1 ? "num" : null }, text)));
  return el("div", { class: "card" }, el("h2", {}, "Validators"), lines.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, lines))) : el("p", { class: "soft" }, "None heard yet: their scores are in the verdict."));
}
function exclusionsCard(win) {
  const peersFor = (reason) => win.peers.filter((row) => row.reason === reason).map((row) => el("li", {}, peerLink(row.peer), el("bdi", { class: "soft", title: plain(row.detail) }, plain(row.detail))));
  const item = ([reason, count]) => el("li", {}, el("div", {}, el("b", { class: "bad" }, `✕ ${words(reason)}`), ` · ${plural(count, "peer")}`), soft(REASONS[reason] || ""), el("ul", {}, peersFor(reason)));
  const groups = byCount(reasonCounts(win));
  return el("section", { class: "card" }, el("h2", {}, "Excluded, by reason"), groups.length ? el("ul", { class: "reasons" }, groups.map(item)) : el("p", { class: "soft" }, win.phase === "train" ? "Nothing is decided before the cutoff." : "Nobody."));
}
function windowColumns(win) {
  return [
    { head: "peer", of: (row) => row.peer, cell: (row) => peerLink(row.peer) }, { head: "role", of: roleName, cell: roleName },
    { head: "state", of: (row) => stateName(row, win), cell: (row) => stateMark(stateName(row, win)) },
    byNumber("share", (row) => row.share, percent, { title: "of the merge" }), byNumber("norm", (row) => row.norm, fixed(3), { title: "length of the update" }),
    ...standingColumns(), byNumber("windows", (row) => row.windows, (value) => or(value, grouped), { title: "in which an update of it was pinned" }),
    byNumber("missed", (row) => row.missed, (value) => or(value, grouped), { title: "windows in a row in which nothing of it was accepted" }), ...updateColumns((row) => row),
  ];
}
const troubleText = (what) => (known.trouble ? `The ${what} cannot be read now (${known.trouble}). Trying again.` : `Reading the ${what}…`);
function windowView(number) {
  const last = () => known.overview.newest?.window ?? number;
  const go = (to) => (location.hash = `#/window/${Math.max(0, Math.min(last(), to))}`);
  const label = el("h1", { "aria-live": "polite" }), slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "window", oninput: () => (label.textContent = `Window ${grouped(slider.value)}`), onchange: () => go(Number(slider.value)) });
  const before = el("button", { type: "button", onclick: () => go(number - 1), "data-key": "before" }, "← previous"), after = el("button", { type: "button", onclick: () => go(number + 1), "data-key": "after" }, "next →");
  const body = el("div"), table = makeTable("window", "Peers in this window", windowColumns, (row) => [row.peer, roleName(row), row.state, whyText(row)].join(" "));
  label.textContent = `Window ${grouped(number)}`;
  const node = [el("section", { class: "row", style: "gap:8px 14px" }, label, before, after, slider, el("button", { type: "button", onclick: () => go(last()) }, "newest")), body, table.node];
  function update() {
    Object.assign(slider, { max: last() });
    if (document.activeElement !== slider) slider.value = number;
    before.disabled = number <= 0;
    after.disabled = number >= last();
    const win = known.window;
    table.node.hidden = !win;
    if (!win) return body.replaceChildren(el("section", { class: "card" }, known.trouble === "gone" ? ["It is not open yet; the newest is ", windowLink(last()), "."] : troubleText("window")));
    keepFocus(() => body.replaceChildren(timeline(win), el("section", { class: "pair" }, windowFacts(win), validatorsCard(win)), exclusionsCard(win)));
    table.show(win.peers, win);
  }
  return { node, update };
}
