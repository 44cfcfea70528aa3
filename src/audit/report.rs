//! What an audit has found.

use std::fmt::Display;

use brigade_bucket::BucketError;
use brigade_protocol::PeerId;
use serde::Serialize;

/// Differences of one step that are listed; a hostile record could name millions.
const MOST: usize = 100;

/// Characters of a value that are shown: it may be a stranger's.
const LONGEST: usize = 300;

/// A step of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// `open.json` and the roster.
    Open,
    /// `cutoff.json`, receipts, updates.
    Cutoff,
    /// `verdict.json`.
    Verdict,
    /// `delta.bin`, `close.json`.
    Close,
    /// The checkpoint of the next window.
    Checkpoint,
}

impl Step {
    /// As it stands in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cutoff => "cutoff",
            Self::Verdict => "verdict",
            Self::Close => "close",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Something that is not as the rules of the run lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    pub step: Step,
    /// What was compared.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// What was found in a window.
#[derive(Clone, Debug, Serialize)]
pub struct WindowReport {
    /// The window.
    pub window: u64,
    /// What differs.
    pub differences: Vec<Difference>,
    /// What the bucket's objects can neither prove nor refute.
    pub unverifiable: Vec<String>,
    /// What breaks no rule, and yet somebody should look at.
    pub notes: Vec<String>,
    /// What was done again.
    #[serde(skip)]
    pub steps: Vec<Step>,
    /// The steps of which some could not be.
    #[serde(skip)]
    pub doubtful: Vec<Step>,
}

impl WindowReport {
    pub(super) fn new(window: u64) -> Self {
        let (differences, unverifiable, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { window, differences, unverifiable, notes, steps: Vec::new(), doubtful: Vec::new() }
    }

    pub(super) fn add(&mut self, findings: Findings) {
        if !self.steps.contains(&findings.step) {
            self.steps.push(findings.step);
        }
        if !findings.unverifiable.is_empty() {
            self.doubtful.push(findings.step);
        }
        for difference in &findings.differences {
            // Where θ comes from is looked at before the first step.
            if !self.steps.contains(&difference.step) {
                self.steps.push(difference.step);
            }
        }
        self.differences.extend(findings.differences);
        self.unverifiable.extend(findings.unverifiable);
        self.notes.extend(findings.notes);
    }
}

/// What was found in one step.
#[derive(Debug)]
pub(super) struct Findings {
    step: Step,
    differences: Vec<Difference>,
    pub(super) unverifiable: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    pub(super) fn of(step: Step) -> Self {
        Self { step, differences: Vec::new(), unverifiable: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn differ(&mut self, what: impl Display, expected: impl Display, found: impl Display) {
        self.differ_at(self.step, what, expected, found);
    }

    fn differ_at(&mut self, step: Step, what: impl Display, expected: impl Display, found: impl Display) {
        let listed = self.differences.len();
        let (what, expected, found) = match listed {
            MOST => ("more".to_owned(), "no other".to_owned(), "others, which are not listed".to_owned()),
            _ => (line(what), line(expected), line(found)),
        };
        if listed <= MOST {
            self.differences.push(Difference { step, what, expected, found });
        }
    }

    pub(super) fn unverifiable(&mut self, what: impl Display) {
        if self.unverifiable.len() < MOST {
            self.unverifiable.push(line(what));
        }
    }

    pub(super) fn note(&mut self, what: impl Display) {
        if self.notes.len() < MOST {
            self.notes.push(line(what));
        }
    }

    /// A difference unless both are equal. Returns whether they are.
    pub(super) fn compare<T: PartialEq + Display>(
        &mut self,
        what: impl Display,
        expected: &T,
        found: &T,
    ) -> bool {
        let same = expected == found;
        if !same {
            self.differ(what, expected, found);
        }
        same
    }

    /// Takes an error for a difference if somebody's records or objects are at fault.
    ///
    /// # Errors
    /// The error itself when it says nothing about the run: the bucket cannot be read.
    pub(super) fn blame(&mut self, what: impl Display, error: anyhow::Error) -> anyhow::Result<()> {
        self.blame_as(self.step, what, error)
    }

    /// The same for another step.
    ///
    /// # Errors
    /// As [`Findings::blame`].
    pub(super) fn blame_as(
        &mut self,
        step: Step,
        what: impl Display,
        error: anyhow::Error,
    ) -> anyhow::Result<()> {
        if !is_evidence(&error) {
            return Err(error);
        }
        self.differ_at(step, what, "as the bucket layout says", format_args!("{error:#}"));
        Ok(())
    }

    /// What could be read; that it is absent, or not what it should be, is a difference.
    ///
    /// # Errors
    /// As [`Findings::blame`].
    pub(super) fn read<T>(
        &mut self,
        what: &str,
        read: anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        if let Ok(None) = &read {
            self.differ(what, "an object", "nothing");
        }
        self.read_or_gone(what, read)
    }

    /// The same of the window before, of which an operator may have deleted some.
    ///
    /// # Errors
    /// As [`Findings::blame`].
    pub(super) fn read_before<T>(
        &mut self,
        what: &str,
        read: anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let what = format!("{what} of the window before");
        if let Ok(None) = &read {
            self.unverifiable(format_args!("what follows from the {what}: it is gone"));
        }
        self.read_or_gone(&what, read)
    }

    fn read_or_gone<T>(&mut self, what: &str, read: anyhow::Result<Option<T>>) -> anyhow::Result<Option<T>> {
        match read {
            Ok(read) => Ok(read),
            Err(error) => {
                self.blame(what, error)?;
                Ok(None)
            }
        }
    }

    /// Compares two lists that are ordered by peer, entry by entry.
    pub(super) fn compare_lists<T: PartialEq>(
        &mut self,
        what: &str,
        [expected, found]: [&[T]; 2],
        peer: impl Fn(&T) -> PeerId,
        mut entries: impl FnMut(&mut Self, &T, &T),
    ) {
        if expected == found {
            return;
        }
        if !is_ordered(expected, &peer) || !is_ordered(found, &peer) {
            self.differ(what, "a list ordered by peer, each peer once", "another");
            return;
        }
        for entry in expected {
            let who = peer(entry);
            match found.binary_search_by_key(&who, &peer) {
                Err(_) => self.differ(format_args!("{what} of {}", who.short()), "an entry", "none"),
                Ok(at) => entries(self, entry, &found[at]),
            }
        }
        for who in found.iter().map(&peer) {
            if expected.binary_search_by_key(&who, &peer).is_err() {
                self.differ(format_args!("{what} of {}", who.short()), "no entry", "one");
            }
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.differences.extend(other.differences);
        self.unverifiable.extend(other.unverifiable);
        self.notes.extend(other.notes);
    }
}

/// Whether a list is ordered by peer and has each once.
pub(super) fn is_ordered<T>(list: &[T], peer: impl Fn(&T) -> PeerId) -> bool {
    list.windows(2).all(|pair| peer(&pair[0]) < peer(&pair[1]))
}

/// Whether an error is somebody's doing. What the store answers is, when it shows that an object is not there or another
/// one; that it does not answer is not.
pub(super) fn is_evidence(error: &anyhow::Error) -> bool {
    let store = error.chain().find_map(|cause| cause.downcast_ref::<BucketError>());
    store.is_none_or(|error| {
        matches!(
            error,
            BucketError::NotFound { .. }
                | BucketError::TooLarge { .. }
                | BucketError::SizeMismatch { .. }
                | BucketError::DigestMismatch { .. }
                | BucketError::InvalidArgument { .. }
        )
    })
}

/// One line of bounded length, whatever a stranger's record says.
fn line(text: impl Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn lists(expected: &[(u8, u8)], found: &[(u8, u8)]) -> Vec<String> {
        let mut findings = Findings::of(Step::Verdict);
        findings.compare_lists(
            "share",
            [expected, found],
            |(n, _)| peer(*n),
            |findings, a, b| {
                findings.compare("value", &a.1, &b.1);
            },
        );
        findings.differences.iter().map(|d| format!("{}: {} {}", d.what, d.expected, d.found)).collect()
    }

    #[test]
    fn lists_are_compared_by_peer() {
        assert!(lists(&[(1, 1), (2, 2)], &[(1, 1), (2, 2)]).is_empty());
        let told = lists(&[(1, 1), (2, 2)], &[(2, 3), (4, 4)]);
        assert_eq!(
            told,
            ["share of 01010101: an entry none", "value: 2 3", "share of 04040404: no entry one"]
        );
        assert_eq!(
            lists(&[(1, 1)], &[(1, 1), (1, 1)]),
            ["share: a list ordered by peer, each peer once another"]
        );
    }

    #[test]
    fn differences_are_bounded_and_one_line_each() {
        let mut findings = Findings::of(Step::Close);
        for _ in 0..1000 {
            findings.differ("a\nb", "x".repeat(9999), "\u{1b}[2J");
        }
        assert_eq!(findings.differences.len(), MOST + 1);
        let first = &findings.differences[0];
        assert_eq!((&first.what[..], first.expected.len(), &first.found[..]), ("a b", LONGEST, " [2J"));
    }

    #[test]
    fn a_store_that_does_not_answer_proves_nothing() {
        let (bucket, key) = (String::from("b"), String::from("k"));
        let absent = BucketError::NotFound { bucket: bucket.clone(), key };
        let elsewhere = BucketError::NoSuchBucket { bucket, endpoint: "e".into() };
        assert!(is_evidence(&anyhow::Error::from(absent).context("θ")));
        assert!(!is_evidence(&anyhow::Error::from(elsewhere).context("θ")));
        assert!(is_evidence(&anyhow::anyhow!("the record is for another window")));
    }
}
