//! The figures in Prometheus' words: its text format, version 0.0.4.

use std::fmt::Write as _;

use super::gauge::Figures;
use crate::observe::{Overview, State};
use crate::spelling::word;

/// A text that grows.
#[derive(Default)]
struct Text(String);

/// A label's value may be anybody's word.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// One sample: `name{labels} value`.
#[must_use]
pub fn line(name: &str, labels: &[(&str, &str)], value: f64) -> String {
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    format!("{name}{labels} {value}\n")
}

type Sample<'a> = (Vec<(&'a str, &'a str)>, f64);

impl Text {
    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        samples.for_each(|(labels, value)| self.0 += &line(name, &labels, value));
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.family(name, "gauge", help, value.map(|value| (vec![], value)));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, [(vec![], value as f64)]);
    }
}

/// What a role knows.
pub(super) fn of_role(figures: &Figures) -> String {
    let mut text = Text::default();
    let (peer, run) = match &figures.identity {
        Some((peer, run)) => (peer.to_string(), run.clone()),
        None => (String::new(), String::new()),
    };
    let labels =
        vec![("version", env!("CARGO_PKG_VERSION")), ("role", figures.role), ("peer", &peer), ("run", &run)];
    text.family("brigade_info", "gauge", "What this is; always 1.", [(labels, 1.0)]);
    windows(&mut text, figures);
    training(&mut text, figures);
    traffic(&mut text, figures);
    machine(&mut text, figures);
    text.0
}

fn windows(text: &mut Text, figures: &Figures) {
    let number = |value: Option<u64>| value.map(|value| value as f64);
    text.gauge("brigade_window", "The window that is going on.", number(figures.window));
    text.counter("brigade_windows_closed_total", "Windows that were closed since the start.", figures.closed);
    // Before the first close the start counts, so that a role that never sees one is noticed too.
    let last = figures.last_close.unwrap_or(figures.started_at);
    text.gauge(
        "brigade_last_close_timestamp_seconds",
        "When the last window was closed, or the start.",
        Some(last),
    );
    let limit = number(figures.window_limit);
    text.gauge("brigade_window_limit_seconds", "Seconds that a window may take by the run's terms.", limit);
    text.gauge(
        "brigade_active_miners",
        "Miners that windows wait for.",
        figures.miners.map(|miners| miners as f64),
    );
    text.gauge(
        "brigade_merged_updates",
        "Updates in the newest delta.",
        figures.merged.map(|merged| merged as f64),
    );
    text.gauge("brigade_delta_bytes", "Bytes of the newest delta.", number(figures.delta_bytes));
    let reasons: Vec<(String, u64)> =
        figures.exclusions.iter().map(|(reason, number)| (word(reason), *number)).collect();
    let samples = reasons.iter().map(|(reason, number)| (vec![("reason", reason.as_str())], *number as f64));
    text.family("brigade_exclusions_total", "counter", "Updates that did not count, by reason.", samples);
    let peers: Vec<(String, String)> =
        figures.excluded.iter().map(|(peer, reason)| (peer.to_string(), word(reason))).collect();
    let samples =
        peers.iter().map(|(peer, reason)| (vec![("peer", peer.as_str()), ("reason", reason.as_str())], 1.0));
    text.family("brigade_peer_excluded", "gauge", "Who was excluded from the newest closed window.", samples);
    text.gauge(
        "brigade_checkpoint_window",
        "The window that the newest checkpoint lies before.",
        number(figures.checkpoint),
    );
    let help = "State roots that were not those of the close record.";
    text.counter("brigade_desynchronised_total", help, figures.desynchronised);
    text.counter("brigade_warnings_total", "Warnings.", figures.warnings);
}

fn training(text: &mut Text, figures: &Figures) {
    let accepted = figures.accepted.map(|accepted| f64::from(u8::from(accepted)));
    text.gauge("brigade_update_accepted", "Whether the last update was merged.", accepted);
    let passed = figures.passed.iter().map(|(accepted, number)| {
        (vec![("outcome", if *accepted { "merged" } else { "not_merged" })], *number as f64)
    });
    text.family("brigade_updates_total", "counter", "Own updates, by what became of them.", passed);
    text.gauge(
        "brigade_update_bytes",
        "Bytes of the last update.",
        figures.update_bytes.map(|bytes| bytes as f64),
    );
    text.gauge(
        "brigade_exchange_seconds",
        "From the last inner step to the next θ.",
        figures.exchange_seconds,
    );
    if let Some(trained) = &figures.trained {
        text.counter("brigade_tokens_total", "Tokens trained since the start.", figures.tokens);
        text.gauge(
            "brigade_train_loss",
            "Mean loss over the last window's steps, nats a token.",
            Some(trained.loss),
        );
        text.gauge("brigade_grad_norm", "Mean gradient norm before clipping.", Some(trained.grad_norm));
        text.gauge(
            "brigade_tokens_per_second",
            "Tokens a second while training.",
            Some(trained.tokens_per_second),
        );
        text.gauge(
            "brigade_mfu_ratio",
            "Model FLOPs utilisation; 1 is the device's peak.",
            Some(trained.mfu),
        );
        text.gauge("brigade_step_seconds", "Median seconds of an inner step.", Some(trained.step_seconds));
        let help = "Share of the time in which the device waited for data.";
        text.gauge("brigade_data_wait_ratio", help, Some(trained.data_wait_share));
        text.gauge(
            "brigade_peak_memory_bytes",
            "The most memory while training.",
            Some(trained.peak_bytes as f64),
        );
    }
    text.gauge("brigade_score_seconds", "Seconds that scoring the last window took.", figures.score_seconds);
    text.gauge("brigade_heldout_loss", "Loss of θ on held-out text, nats a token.", figures.heldout_loss);
}

fn traffic(text: &mut Text, figures: &Figures) {
    let totals: Vec<_> =
        figures.buckets.iter().map(|(name, counters)| (*name, counters.snapshot())).collect();
    let requests = totals.iter().flat_map(|(name, traffic)| {
        let of_kind = |(kind, number): &(brigade_bucket::RequestKind, u64)| {
            (vec![("bucket", *name), ("kind", kind.as_str())], *number as f64)
        };
        traffic.requests.iter().map(of_kind).collect::<Vec<_>>()
    });
    text.family("brigade_requests_total", "counter", "Requests sent to object storage.", requests);
    let bytes = totals.iter().flat_map(|(name, traffic)| {
        [("up", traffic.bytes_up), ("down", traffic.bytes_down)]
            .map(|(way, bytes)| (vec![("bucket", *name), ("direction", way)], bytes as f64))
    });
    text.family("brigade_bytes_total", "counter", "Bytes of bodies to and from object storage.", bytes);
    let failures = totals.iter().map(|(name, traffic)| (vec![("bucket", *name)], traffic.failures as f64));
    let help = "Requests without an answer, or with one of 429 or 500 and above.";
    text.family("brigade_request_failures_total", "counter", help, failures);
}

fn machine(text: &mut Text, figures: &Figures) {
    let folder = figures.state.ancestors().find(|folder| folder.exists());
    if let Some(Ok(disk)) = folder.map(rustix::fs::statvfs) {
        let bytes = |blocks: u64| Some(blocks.saturating_mul(disk.f_frsize) as f64);
        text.gauge("brigade_disk_free_bytes", "Room for the state folder.", bytes(disk.f_bavail));
        text.gauge("brigade_disk_bytes", "Size of the disk that it lies on.", bytes(disk.f_blocks));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    text.gauge("process_resident_memory_bytes", "Memory of the process.", resident.map(|kib| kib * 1024.0));
    text.gauge("process_start_time_seconds", "When the process started.", Some(figures.started_at));
}

/// What somebody who looks at a run knows of it.
#[must_use]
pub fn of_overview(overview: &Overview) -> String {
    let mut text = Text::default();
    let run = overview.run.to_string();
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION")),
        ("role", "observer"),
        ("run", &run),
        ("name", &overview.name),
    ];
    text.family("brigade_info", "gauge", "What this is; always 1.", [(labels, 1.0)]);
    let newest = overview.newest.as_ref();
    text.gauge("brigade_window", "The newest window.", newest.map(|window| window.window as f64));
    if let Some(line) = overview.history.last() {
        let closed = line.closed_at as f64 / 1000.0;
        text.gauge("brigade_last_close_timestamp_seconds", "When the last window was closed.", Some(closed));
        text.gauge("brigade_run_loss", "Loss of θ at a window's start, nats a token.", line.loss);
        text.gauge(
            "brigade_run_tokens_per_second",
            "Tokens behind a window over its seconds.",
            line.tokens_per_second,
        );
        text.gauge("brigade_merged_updates", "Updates in the newest delta.", Some(line.merged as f64));
        let help = "Bytes of all pinned updates of a window.";
        text.gauge("brigade_run_update_bytes", help, Some(line.update_bytes as f64));
        text.gauge("brigade_delta_bytes", "Bytes of the newest delta.", Some(line.delta_bytes as f64));
    }
    if overview.history.is_empty() {
        // Before the first close its opening counts, so that a run that never closes a window is noticed too.
        let opened = newest.map(|window| window.opened_at as f64 / 1000.0);
        text.gauge(
            "brigade_last_close_timestamp_seconds",
            "When the last window was closed, or opened.",
            opened,
        );
    }
    let limit = Some(overview.window_limit_seconds as f64);
    text.gauge("brigade_window_limit_seconds", "Seconds that a window may take by the run's terms.", limit);
    let over = Some(f64::from(u8::from(overview.is_over)));
    text.gauge("brigade_run_over", "Whether the run's last window is closed.", over);
    let settled = overview.last_closed.as_ref().or(newest);
    let rows: Vec<_> =
        settled.into_iter().flat_map(|window| &window.peers).map(|row| (row.peer.to_string(), row)).collect();
    let excluded: Vec<_> = rows
        .iter()
        .filter(|(_, row)| row.state == State::Excluded)
        .map(|(peer, row)| (peer.as_str(), row.reason.as_ref().map(word).unwrap_or_default()))
        .collect();
    let samples =
        excluded.iter().map(|(peer, reason)| (vec![("peer", *peer), ("reason", reason.as_str())], 1.0));
    text.family("brigade_peer_excluded", "gauge", "Who was excluded from the newest closed window.", samples);
    let weights = rows.iter().filter_map(|(peer, row)| Some((vec![("peer", peer.as_str())], row.weight?)));
    text.family("brigade_peer_weight", "gauge", "Share of the reward.", weights);
    text.counter(
        "brigade_observer_requests_total",
        "Requests that looking has cost.",
        overview.cost.requests(),
    );
    text.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use brigade_protocol::{Digest, Exclusion, PeerId, Reason};

    use super::*;
    use crate::events::Event;

    #[test]
    fn events_become_samples() {
        let mut figures = Figures::new("aggregator", Path::new("/"));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let excluded = vec![Exclusion::new(PeerId([3; 32]), Reason::Late, "2 s")];
        let closed = Event::Closed {
            window: 3,
            state_root: Digest([1; 32]),
            accepted: vec![PeerId([2; 32])],
            excluded,
            delta_bytes: 7,
        };
        figures.observe(&closed, at);
        figures.observe(&closed, at);
        figures.limit(1320);
        let text = of_role(&figures);
        for expected in [
            "# TYPE brigade_windows_closed_total counter\nbrigade_windows_closed_total 2\n",
            "brigade_last_close_timestamp_seconds 1000\n",
            "brigade_exclusions_total{reason=\"late\"} 2\n",
            "brigade_window_limit_seconds 1320\n",
            "brigade_desynchronised_total 0\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let peer = format!("brigade_peer_excluded{{peer=\"{}\",reason=\"late\"}} 1\n", PeerId([3; 32]));
        assert!(text.contains(&peer) && text.contains("brigade_disk_free_bytes "), "{text}");
    }

    #[test]
    fn labels_cannot_break_out() {
        let text = line("name", &[("label", "a\"} 1\nevil{\\")], 2.0);
        assert_eq!(text, "name{label=\"a\\\"} 1\\nevil{\\\\\"} 2\n");
    }
}
