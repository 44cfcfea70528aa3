"use strict";

/* Elements. Text only ever comes in as text nodes: what peers write is never parsed. */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const soft = (...children) => el("span", { class: "soft" }, ...children);

/* Numbers as people read them. */
const NONE = "–", THIN = "\u202f";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const or = (value, format) => (isNumber(value) ? format(value) : NONE);
const grouped = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN);
const fixed = (digits) => (value) => or(value, (v) => v.toFixed(digits).replace("-", "−"));
const percent = (value) => or(value, (v) => (v * 100).toFixed(2) + THIN + "%");
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
/* Strangers' text, without what would turn the direction of the line. */
const plain = (text) => String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const plural = (number, one, many) => `${grouped(number)} ${number === 1 ? one : many || one + "s"}`;
const words = (name) => String(name).replaceAll("_", " ");
const short = (id) => String(id).slice(0, 8);
function scaled(value, unit) {
  const power = Math.min(5, Math.max(0, Math.floor(Math.log10(Math.max(1, Math.abs(value))) / 3 + 1e-9)));
  const number = value / 1000 ** power;
  const digits = power === 0 && Number.isInteger(value) ? 0 : number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
  return `${number.toFixed(digits)}\u00a0${["", "k", "M", "G", "T", "P"][power]}${unit}`.trim();
}
const bytes = (value) => or(value, (v) => scaled(v, "B"));
const shortScaled = (value, unit) => scaled(value, unit).replace(/\.0+(?=\s|$)|(\.\d)0(?=\s|$)/, "$1");
const rate = (value) => or(value, (v) => scaled(v, "") + "/s");
function span(seconds) {
  if (!isNumber(seconds)) return NONE;
  const pad = (value) => String(Math.floor(value)).padStart(2, "0");
  if (seconds < 59.95) return `${seconds.toFixed(1)}\u00a0s`;
  const s = Math.round(seconds);
  if (s < 3600) return `${Math.floor(s / 60)}\u00a0min\u00a0${pad(s % 60)}\u00a0s`;
  if (s < 86400) return `${Math.floor(s / 3600)}\u00a0h\u00a0${pad((s % 3600) / 60)}\u00a0min`;
  return `${Math.floor(s / 86400)}\u00a0d\u00a0${pad((s % 86400) / 3600)}\u00a0h`;
}
const ticking = (seconds) => (seconds < 60 ? `${Math.max(0, Math.floor(seconds))}\u00a0s` : span(Math.floor(seconds)));
function moment(ms) {
  // Beyond that a date is none, and a stranger may have written any number.
  if (!isNumber(ms) || Math.abs(ms) > 8.64e15) return document.createTextNode(NONE);
  const date = new Date(ms);
  return el("time", { datetime: date.toISOString(), title: date.toISOString(), class: "nowrap" },
    date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false }));
}
const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });

/* The store's clock. Answers may come from the browser's cache, so the largest offset ever seen is the freshest. */
const storeNow = () => (known.storeOffset === null ? Date.now() : known.storeOffset + performance.now());
function learnClock(now) { if (isNumber(now)) known.storeOffset = Math.max(known.storeOffset ?? -Infinity, now - performance.now()); }

/* Small parts. */
function copyButton(text, what) {
  const button = el("button", { class: "small", type: "button", "aria-label": `copy ${what}`, onclick: copy }, "copy");
  function copy() {
    const say = (word) => { button.textContent = word; setTimeout(() => (button.textContent = "copy"), 1500); };
    const done = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject(new Error("no clipboard"));
    done.then(() => say("copied"), () => say("not allowed"));
  }
  return button;
}
const windowLink = (number) => el("a", { href: `#/window/${number}`, "data-key": `w${number}`, class: "nowrap" }, `window ${grouped(number)}`);
const peerLink = (id) => el("a", { href: `#/peer/${id}`, title: id, class: "mono", "data-key": `p${id}` }, short(id));
const fullId = (id, what) => el("span", {}, el("code", { class: "root" }, String(id)), " ", copyButton(id, what));
const facts = (pairs) => el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, ...value]) => [el("dt", {}, name), el("dd", {}, ...value)]));
const tile = (name, value, ...lines) => el("dl", { class: "card tile", style: "margin:0" }, el("dt", {}, name), el("dd", { class: "value" }, ...[value].flat()), lines.filter(Boolean).map((line) => el("dd", {}, line)));
function stateMark(name) {
  const [sign, word, tone] = STATES[name] || ["?", words(name), "soft"];
  return el("span", { class: tone }, el("span", { "aria-hidden": "true", class: "mono" }, sign), word ? ` ${word}` : "");
}
/* A validator delivers nothing: what counts is whether its scores were heard. */
function stateName(row, win) {
  if (!row || !win) return "none";
  if (row.role !== "validator") return row.state;
  if (win.validators.some((heard) => heard.peer === row.peer)) return "heard";
  return win.phase === "merge" || win.phase === "closed" ? "silent" : "none";
}
const roleName = (row) => (row.role === "miner" && !row.active ? "miner, off" : row.role);
function why(row) {
  if (!row) return "";
  if (row.reason) return [el("span", { class: "bad" }, words(row.reason)), row.detail ? soft(" · ", el("bdi", {}, plain(row.detail))) : ""];
  return row.missed > 0 ? soft(`missed ${plural(row.missed, "window")} in a row`) : "";
}
const whyText = (row) => (row && (row.reason || row.detail) ? `${words(row.reason || "")}: ${plain(row.detail)}` : "");

function stepper(phase) {
  const at = PHASES.indexOf(phase);
  const step = (name, index) => {
    const isDone = index < at || phase === "closed", isCurrent = index === at && !isDone;
    const sign = isDone ? "✓" : isCurrent ? "●" : "○";
    return el("li", { class: isDone ? "done" : isCurrent ? "current" : null, "aria-current": index === at ? "step" : null },
      el("span", { "aria-hidden": "true" }, `${sign} `), name);
  };
  return el("ol", { class: "steps", "aria-label": "phase of the window" }, PHASES.map(step));
}
function phaseClock(win) {
  const since = (ms) => ticking((storeNow() - ms) / 1000);
  if (win.phase === "closed") return [soft("closed "), `${since(win.closed_at)} ago`];
  if (win.phase !== "train") return [soft(win.phase === "score" ? "scoring, cut off " : "merging, cut off "), `${since(win.cut_at)} ago`];
  const left = (win.deadline - storeNow()) / 1000;
  return left >= 0 ? [soft("deadline in "), el("b", {}, ticking(left))] : [el("span", { class: "bad" }, "deadline passed "), `${ticking(-left)} ago`];
}
