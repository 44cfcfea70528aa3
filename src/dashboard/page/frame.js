"use strict";

/* Frame: what stands above and below every view. */
function drawHeader() {
  const overview = known.overview, win = overview.newest;
  const top = el("div", { class: "row", style: "margin-bottom:12px;gap:4px 16px" }, el("h1", {}, el("a", { href: "#/", "data-key": "home" }, overview.name)),
    el("span", { class: "nowrap" }, soft("run "), el("code", { title: overview.run }, short(overview.run)), " ", copyButton(overview.run, "the run's id")),
    el("span", { class: "nowrap" }, soft("model "), `${scaled(overview.parameters, "").replace("G", "B")} parameters`), el("span", { class: "nowrap" }, soft("a window "), `${scaled(overview.tokens_per_window, "")} tokens per peer`),
    overview.url && el("span", { class: "nowrap push", title: overview.url }, soft("run URL "), copyButton(overview.url, "the run's URL")));
  const total = overview.total_windows, isOver = win && total !== null && win.window + 1 >= total && win.phase === "closed";
  const place = win && el("a", { href: `#/window/${win.window}`, "data-key": "newest", class: "big", title: "windows are counted from 0" }, `Window ${grouped(win.window)}`, el("small", { class: "soft", style: "font-weight:400" }, total === null ? "" : ` of ${grouped(total)}`));
  const status = win && el("div", { class: "card status" }, place, stepper(win.phase), el("span", { class: "clock nowrap", id: "clock" }, isOver ? "the run is over" : phaseClock(win)));
  keepFocus(() => document.getElementById("head").replaceChildren(top, ...(status ? [status] : [])));
  known.isOver = Boolean(isOver);
  document.title = win ? `${overview.name} · window ${win.window} · ${win.phase}` : `${overview.name} · Brigade`;
}
function drawFooter() {
  const cost = known.overview.cost, requests = cost.gets + cost.heads + cost.lists;
  const link = (href, text, download) => el("a", { href, download, "data-key": href }, text);
  keepFocus(() => document.getElementById("foot").replaceChildren(
    el("span", {}, "Download ", link("/api/history.csv", "history.csv", true), " · ", link("/api/peers.csv", "peers.csv", true), " · ", link("/api/overview", "overview.json", "overview.json")),
    el("span", {}, link("/metrics", "metrics")),
    el("span", { title: `${cost.gets} GET, ${cost.heads} HEAD, ${cost.lists} LIST` }, `Looking has cost ${plural(requests, "request")} and ${bytes(cost.bytes)}`),
    el("span", { class: "push", id: "age" })));
}
/* The server answers with what it saw last, also while it cannot reach the bucket: then the time of its last look stands still. */
function figuresAge() {
  const sinceAnswer = (performance.now() - known.okAt.tick) / 1000, now = known.overview.now;
  return isNumber(now) ? Math.max(sinceAnswer, (storeNow() - now) / 1000) : sinceAnswer;
}
function tick() {
  const win = known.overview?.newest, clockNode = document.getElementById("clock"), age = document.getElementById("age");
  if (win && clockNode && !known.isOver) clockNode.replaceChildren(...phaseClock(win));
  if (age) age.textContent = `Figures are ${ticking(figuresAge())} old · ${clock(storeNow())} by the store's clock`;
  drawBanner();
}
function bannerText() {
  const again = ` Trying again every ${POLL_MS / 1000} s.`;
  if (known.failure && !known.overview) return `No answer yet (${known.failure}).${again}`;
  if (known.failure) return `No answer since ${clock(known.okAt.time)} (${known.failure}): the figures are from then.${again}`;
  if (known.overview?.failure) return `The run's bucket could not be read at the last look: ${plain(known.overview.failure)}`;
  if (known.overview && figuresAge() > STALE_S + 2 * known.overview.every) return `The run's bucket was last read at ${clock(storeNow() - figuresAge() * 1000)}: the figures are from then.`;
  return "";
}
function drawBanner() {
  const banner = document.getElementById("stale"), text = bannerText();
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
}

/* Routes and polling. */
function route() {
  const [, kind, what] = location.hash.match(/^#\/(window|peer)\/([0-9a-f]+)$/) || [];
  if (kind === "window" && /^\d{1,15}$/.test(what)) return { key: location.hash, path: `/api/windows/${Number(what)}`, part: "window", make: () => windowView(Number(what)) };
  if (kind === "peer" && what.length === 64) return { key: location.hash, path: `/api/peers/${what}`, part: "peer", make: () => peerView(what) };
  return { key: known.overview?.newest ? "#/" : "#/empty", make: known.overview?.newest ? overviewView : emptyView };
}
function drawView() {
  const here = route();
  if (view.key !== here.key) {
    Object.assign(view, { key: here.key, charts: [], cursor: null });
    const made = here.make();
    view.update = made.update;
    keepFocus(() => document.getElementById("main").replaceChildren(...[made.node].flat()));
  }
  view.update();
}
/* What has not changed stays as it is, with the reader's selection and place in it. */
function drawWhatChanged() {
  if (known.drawn !== known.state || view.key !== route().key) {
    drawHeader();
    drawView();
  }
  known.drawn = known.state;
  drawFooter();
  tick();
}
async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}
const failureText = (error) => (error.name === "TimeoutError" ? "timed out" : error instanceof TypeError ? "cannot be reached" : error.message);
async function readPart(here) {
  if (!here.path || (here.part === "window" && known.window?.phase === "closed" && known.partKey === here.key)) return;
  const [part, trouble] = await ask(here.path).then((part) => [part, part ? null : "gone"], (error) => [known[here.part], failureText(error)]);
  if (route().key === here.key) Object.assign(known, { window: null, peer: null, trouble, partKey: here.key, [here.part]: part });
}
async function look() {
  try {
    const overview = await ask("/api/overview");
    if (!overview) throw new Error("HTTP 404");
    learnClock(overview.now);
    Object.assign(known, { overview, failure: null, okAt: { time: Date.now(), tick: performance.now() } });
    await readPart(route());
    known.state = JSON.stringify([overview.newest, overview.last_closed, overview.history.length, known.window, known.peer, known.trouble]);
  } catch (error) {
    known.failure = failureText(error);
  }
  drawBanner();
  if (known.overview) drawWhatChanged();
}
function follow() { look().finally(() => setTimeout(follow, POLL_MS)); }
async function onRoute() {
  if (!known.overview) return;
  Object.assign(known, { window: null, peer: null, trouble: null, partKey: null });
  drawView();
  scrollTo(0, 0);
  await readPart(route());
  drawView();
}
addEventListener("hashchange", onRoute);
setInterval(tick, 1000);
follow();
