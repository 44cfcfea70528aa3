//! What a role tells: one line for a person, or one JSON object for a program.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use brigade_protocol::{Digest, Exclusion, PeerId};
use serde::{Deserialize, Serialize};

use crate::spelling::several;
use crate::throughput::{Metrics, Peak};

/// Something that happened. Field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The role has read its configuration and reached its buckets.
    Ready {
        /// Who it is.
        peer: PeerId,
        /// The run.
        run: Digest,
    },
    /// θ is that of the start of `window`.
    Synced {
        /// The window that comes next.
        window: u64,
        /// State root of θ.
        state_root: Digest,
    },
    /// Not enough miners yet.
    Waiting {
        /// Active miners.
        miners: usize,
        /// Miners that the run needs.
        needed: usize,
    },
    /// A window is open.
    Opened {
        /// The window.
        window: u64,
        /// Active miners.
        miners: usize,
    },
    /// An inner step is done.
    Step {
        /// The window.
        window: u64,
        /// Inner steps done.
        step: u32,
        /// Inner steps in all.
        of: u32,
        /// Training loss, nats a token.
        loss: f32,
        /// Gradient norm before clipping.
        grad_norm: f32,
        /// Tokens a second, over the window so far.
        tokens_per_second: f64,
        /// Seconds of the step, waiting for its batch included.
        step_seconds: f64,
        /// Share of them in which the device waited for the batch.
        data_wait_share: f64,
    },
    /// What this participant computes on.
    Device {
        /// The device.
        device: String,
        /// Parameters of the model.
        parameters: usize,
        /// What the device could do at best.
        peak: Peak,
    },
    /// The inner steps of a window are done.
    Trained(Metrics),
    /// An update and its receipt are in the bucket.
    Delivered {
        /// The window.
        window: u64,
        /// Size of the update in bytes.
        bytes: u64,
        /// Mean training loss over the window's inner steps.
        train_loss: f64,
    },
    /// A window is cut off.
    CutOff {
        /// The window.
        window: u64,
        /// Updates that count.
        pinned: usize,
        /// Updates that do not.
        excluded: usize,
    },
    /// Scores are in the bucket.
    Scored {
        /// The window.
        window: u64,
        /// Updates that were scored.
        updates: usize,
        /// Seconds that it took.
        seconds: f64,
    },
    /// The verdict on a window is there.
    Judged {
        /// The window.
        window: u64,
        /// Share of the reward of everybody who was ever judged.
        weights: BTreeMap<PeerId, f64>,
    },
    /// A window is closed.
    Closed {
        /// The window.
        window: u64,
        /// State root of θ after.
        state_root: Digest,
        /// Peers whose update was merged.
        accepted: Vec<PeerId>,
        /// Peers whose update was not.
        excluded: Vec<Exclusion>,
        /// Size of the delta in bytes.
        delta_bytes: u64,
    },
    /// θ has been measured on held-out text.
    Evaluated {
        /// The window that θ closes.
        window: u64,
        /// Nats a token.
        heldout_loss: f64,
        /// Bits a byte of text.
        bits_per_byte: f64,
    },
    /// A miner has gone through a window.
    Passed {
        /// The window.
        window: u64,
        /// Whether its update was merged.
        accepted: bool,
        /// Mean training loss over the inner steps.
        train_loss: f64,
        /// Tokens trained.
        tokens: u64,
        /// Seconds of inner steps.
        compute_seconds: f64,
        /// Seconds from the last inner step to the next θ.
        exchange_seconds: f64,
        /// Seconds from one θ to the next.
        wall_seconds: f64,
        /// Bytes sent over HTTP for the exchange.
        bytes_up: u64,
        /// Bytes received over HTTP for the exchange.
        bytes_down: u64,
    },
    /// θ before `window` is published.
    Checkpointed {
        /// The window.
        window: u64,
        /// Key prefix of the folder.
        folder: String,
    },
    /// θ does not have the state root that was closed; it is fetched anew.
    Desynchronised {
        /// The window.
        window: u64,
        /// State root of the close record.
        expected: Digest,
        /// State root that was found here.
        found: Digest,
    },
    /// Something that a person should know and that stops nothing.
    Warning {
        /// One line.
        message: String,
    },
    /// The run is over.
    Finished {
        /// Windows closed.
        windows: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { peer, run } => write!(f, "peer {} in run {}", peer.short(), run.short()),
            Self::Synced { window, state_root } => {
                write!(f, "θ of window {window}, state root {}", state_root.short())
            }
            Self::Waiting { miners, needed } => write!(f, "waiting for miners: {miners} of {needed}"),
            Self::Opened { window, miners } => {
                write!(f, "window {window} open, {}", several(*miners as u64, "miner"))
            }
            Self::Device { device, parameters, peak } => {
                write!(f, "{:.1} M parameters on {device}, peak {peak}", *parameters as f64 / 1e6)
            }
            Self::Trained(metrics) => metrics.fmt(f),
            Self::Step { window, step, of, loss, grad_norm, tokens_per_second, .. } => write!(
                f,
                "window {window} step {step}/{of} loss {loss:.3} gradient norm {grad_norm:.2}, {tokens_per_second:.0} tok/s"
            ),
            Self::Delivered { window, bytes, train_loss } => {
                write!(f, "window {window} delivered, {bytes} bytes, training loss {train_loss:.4}")
            }
            Self::CutOff { window, pinned, excluded } => {
                write!(f, "window {window} cut off, {pinned} updates count, {excluded} do not")
            }
            Self::Scored { window, updates, seconds } => {
                write!(f, "window {window} scored, {} in {seconds:.1} s", several(*updates as u64, "update"))
            }
            Self::Judged { window, weights } => {
                let paid = weights.values().filter(|weight| **weight > 0.0).count();
                write!(f, "window {window} judged, {paid} of {} peers have weight", weights.len())
            }
            Self::Closed { window, state_root, accepted, excluded, delta_bytes } => {
                write!(
                    f,
                    "window {window} closed, {} merged, delta of {delta_bytes} bytes, state root {}",
                    accepted.len(),
                    state_root.short()
                )?;
                for Exclusion { peer, reason, detail } in excluded {
                    write!(f, "; {} excluded ({reason:?}): {detail}", peer.short())?;
                }
                Ok(())
            }
            Self::Evaluated { window, heldout_loss, bits_per_byte } => {
                write!(f, "window {window} held-out loss {heldout_loss:.4}, {bits_per_byte:.4} bits a byte")
            }
            Self::Passed {
                window,
                accepted,
                compute_seconds,
                exchange_seconds,
                bytes_up,
                bytes_down,
                ..
            } => {
                let word = if *accepted { "merged" } else { "not merged" };
                write!(
                    f,
                    "window {window} {word}, {compute_seconds:.1} s compute, {exchange_seconds:.1} s exchange, {bytes_up} bytes up, {bytes_down} down"
                )
            }
            Self::Checkpointed { window, folder } => write!(f, "checkpoint of window {window} in {folder}"),
            Self::Desynchronised { window, expected, found } => write!(
                f,
                "window {window}: state root {} here, {} in the close record; fetching θ anew",
                found.short(),
                expected.short()
            ),
            Self::Warning { message } => f.write_str(message),
            Self::Finished { windows } => write!(f, "the run is over after {windows} windows"),
        }
    }
}

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// To the log, for a person.
    Log,
    /// To standard output, one JSON object a line.
    Json,
}

impl Reporter {
    /// Tells `event`.
    pub fn tell(&self, event: Event) {
        crate::metrics::observe(&event);
        match self {
            Self::Log => match &event {
                Event::Step { .. } => tracing::debug!("{event}"),
                Event::Warning { .. } | Event::Desynchronised { .. } => tracing::warn!("{event}"),
                _ => tracing::info!("{event}"),
            },
            Self::Json => {
                if let Ok(mut line) = serde_json::to_vec(&event) {
                    line.push(b'\n');
                    // One write a line: a reader never sees half of one. A reader that has gone is no reason to stop.
                    let _ = std::io::stdout().lock().write_all(&line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_json() {
        let event = Event::Closed {
            window: 3,
            state_root: Digest([1; 32]),
            accepted: vec![PeerId([2; 32])],
            excluded: vec![Exclusion::new(PeerId([3; 32]), brigade_protocol::Reason::Late, "2 s")],
            delta_bytes: 7,
        };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.starts_with(r#"{"event":"closed","window":3,"#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        let event = Event::Judged { window: 3, weights: [(PeerId([2; 32]), 0.25)].into() };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
