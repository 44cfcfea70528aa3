"use strict";

const POLL_MS = 5000, TIMEOUT_MS = 20000, STALE_S = 90, SHOWN_ROWS = 50, RECENT = 64;
const PHASES = ["train", "score", "merge", "closed"];
const STATES = {
  merged: ["✓", "merged", "good"], pinned: ["●", "pinned", "now"], delivered: ["●", "delivered", "now"], training: ["…", "training", "soft"],
  excluded: ["✕", "excluded", "bad"], absent: ["–", "absent", "soft"], heard: ["✓", "heard", "good"], silent: ["✕", "silent", "bad"], none: ["–", "", "soft"],
};
const REASONS = {
  missing: "No receipt at the cutoff: the miner was not running, or its upload was too slow.",
  late: "The receipt came after the deadline: training or upload was too slow.",
  bad_receipt: "The receipt is no valid record, or is not signed by this peer: a foreign or faulty client.",
  wrong_window: "The receipt is for another run, window or opening: a stale process.",
  wrong_start: "Training started from another θ: its losses before the first step are not those of the global model.",
  too_large: "The update is larger than any honest one: a faulty client.",
  unavailable: "The update cannot be read with the sealed key, or is not what the receipt says.",
  malformed: "The update breaks the update format: a faulty client.",
  harmful: "Validators agree that the update raises the loss.",
  oversized: "The update is many times longer than the median of the others.",
  replayed: "The update was sent before, by this peer or by another.",
  copied: "Another peer sent the same update, or nearly the same, earlier in the window.",
  idle: "Validators agree that the update does far less than those of the others.",
  untraced: "For several windows nothing shows that it trained on the sequences that it was assigned.",
};

/* What is known. */
const known = { overview: null, window: null, peer: null, trouble: null, okAt: null, failure: null, storeOffset: null };
const view = { key: null, update: null, charts: [], cursor: null };
const memory = { range: "all", tables: {} };
