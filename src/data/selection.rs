//! Which documents count, and on which side each falls: decided by content alone, so that every reading of the same
//! inputs decides alike and a duplicate never straddles the sides.

use std::collections::{BinaryHeap, HashSet};
use std::ops::ControlFlow;

use brigade_protocol::Split;
use indicatif::ProgressBar;

use super::DataError;
use super::source::Source;
use super::text::{Found, content_digest};

/// Drops blank documents, exact duplicates, and what lies past the byte limit. Takes 16 bytes of memory a document.
///
/// 128 bits of SHA-256 tell documents apart: two among 10¹² distinct ones agree with probability 10⁻¹⁵.
#[derive(Debug)]
pub(super) struct Admission {
    seen: HashSet<u128>,
    limit: u64,
    pub(super) totals: Totals,
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Documents admitted.
    pub(super) documents: u64,
    /// Their bytes of text.
    pub(super) bytes: u64,
    /// Documents dropped as duplicates.
    pub(super) duplicates: u64,
    /// Stretches that were not UTF-8 text.
    pub(super) not_text: u64,
}

/// A document's place among all, drawn from its content: uniform, and independent of the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lot {
    /// Decides the sample that the tokenizer is trained on.
    sample: u64,
    /// Decides the split.
    split: u64,
}

impl Admission {
    /// Admits documents until their text reaches `limit` bytes.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { seen: HashSet::new(), limit: limit.unwrap_or(u64::MAX), totals: Totals::default() }
    }

    /// The lot of an admitted document, or `None` for one that is dropped.
    fn admit(&mut self, text: &str) -> Option<Lot> {
        let digest = content_digest(text)?;
        let (sample, rest) = digest.split_first_chunk::<8>()?;
        let (split, _) = rest.split_first_chunk::<8>()?;
        let lot = Lot { sample: u64::from_be_bytes(*sample), split: u64::from_be_bytes(*split) };
        if !self.seen.insert(u128::from(lot.sample) << 64 | u128::from(lot.split)) {
            self.totals.duplicates += 1;
            return None;
        }
        self.totals.documents += 1;
        self.totals.bytes += text.len() as u64;
        Some(lot)
    }

    /// Reads `sources` in order and hands on every admitted document.
    ///
    /// # Errors
    /// Those of reading and of the visitor.
    pub(super) fn read(
        &mut self,
        sources: &[Source],
        column: &str,
        bar: &ProgressBar,
        mut visit: impl FnMut(Lot, &str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut step = |found: Found<'_>| {
            match found {
                Found::NotText => self.totals.not_text += 1,
                Found::Document(text) => {
                    if let Some(lot) = self.admit(text) {
                        visit(lot, text)?;
                    }
                }
            }
            let full = self.totals.bytes >= self.limit;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        for source in sources {
            if source.read(column, bar, &mut step)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Which lots are held out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threshold {
    /// The largest `Lot::split` that is held out; `None` holds nothing out.
    last: Option<u64>,
}

impl Threshold {
    /// Holds out about `fraction` of the documents (0 for none), and at least the one with the lowest lot.
    ///
    /// A document's side depends on its content and on the fraction only, so that adding text moves nothing across;
    /// the exception, a corpus too small to have any lot below the fraction, is what `lowest` is for.
    pub(super) fn new(fraction: f64, lowest: Option<u64>) -> Self {
        // 2^64 × fraction; `as` saturates, and the fraction is below 1.
        let last = (fraction > 0.0).then_some((fraction * 18_446_744_073_709_551_616.0) as u64);
        Self { last: last.map(|last| last.max(lowest.unwrap_or(0))) }
    }

    /// The side on which a document falls.
    pub(super) fn split(self, lot: Lot) -> Split {
        if self.last.is_some_and(|last| lot.split <= last) { Split::Heldout } else { Split::Train }
    }
}

/// The documents with the lowest lots, about `budget` bytes of them: the same whatever the order of reading.
#[derive(Debug)]
struct Sample {
    budget: u64,
    bytes: u64,
    kept: BinaryHeap<(Lot, String)>,
}

impl Sample {
    fn new(budget: u64) -> Self {
        Self { budget, bytes: 0, kept: BinaryHeap::new() }
    }

    fn offer(&mut self, lot: Lot, text: &str) {
        let full = self.bytes >= self.budget;
        if full && self.kept.peek().is_none_or(|(highest, _)| lot >= *highest) {
            return;
        }
        self.bytes += text.len() as u64;
        self.kept.push((lot, text.to_owned()));
        while let Some((_, highest)) = self.kept.peek()
            && self.bytes - highest.len() as u64 >= self.budget
        {
            self.bytes -= highest.len() as u64;
            self.kept.pop();
        }
    }
}

/// The first reading: how much there is, where the splits part, and a sample to train a tokenizer on.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) totals: Totals,
    pub(super) threshold: Threshold,
    /// Training documents in the order of their lots; empty when no sample was asked for.
    pub(super) sample: Vec<String>,
}

/// Reads everything once.
///
/// # Errors
/// Those of reading, and [`DataError::NothingToTrain`] when every document would be held out.
pub(super) fn survey(
    sources: &[Source],
    column: &str,
    limit: Option<u64>,
    fraction: f64,
    sample_bytes: u64,
    bar: &ProgressBar,
) -> Result<Survey, DataError> {
    let mut admission = Admission::new(limit);
    let mut sample = Sample::new(sample_bytes);
    let (mut lowest, mut highest) = (None::<u64>, None::<u64>);
    admission.read(sources, column, bar, |lot, text| {
        lowest = Some(lowest.map_or(lot.split, |l| l.min(lot.split)));
        highest = Some(highest.map_or(lot.split, |h| h.max(lot.split)));
        if sample_bytes > 0 {
            sample.offer(lot, text);
        }
        Ok(())
    })?;
    let totals = admission.totals;
    let threshold = Threshold::new(fraction, lowest);
    if highest.zip(threshold.last).is_some_and(|(highest, last)| highest <= last) {
        return Err(DataError::NothingToTrain { documents: totals.documents });
    }
    let sample = sample.kept.into_sorted_vec();
    let sample = sample.into_iter().filter(|(lot, _)| threshold.split(*lot) == Split::Train);
    Ok(Survey { totals, threshold, sample: sample.map(|(_, text)| text).collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lot(text: &str) -> Lot {
        Admission::new(None).admit(text).unwrap()
    }

    #[test]
    fn duplicates_and_blanks_are_dropped() {
        let mut admission = Admission::new(None);
        assert!(admission.admit("a\n").is_some());
        assert!(admission.admit("a \r\n\r\n").is_none());
        assert!(admission.admit("  \n").is_none());
        assert!(admission.admit("b").is_some());
        assert_eq!(admission.totals, Totals { documents: 2, bytes: 3, duplicates: 1, not_text: 0 });
    }

    #[test]
    fn the_fraction_is_met_and_nothing_moves_when_text_is_added() {
        let texts: Vec<String> = (0..20_000).map(|n| format!("document {n}")).collect();
        let lowest = |texts: &[String]| texts.iter().map(|t| lot(t).split).min();
        let small = Threshold::new(0.05, lowest(&texts[..1000]));
        let large = Threshold::new(0.05, lowest(&texts));
        assert!(texts[..1000].iter().all(|t| small.split(lot(t)) == large.split(lot(t))));
        let held = texts.iter().filter(|t| large.split(lot(t)) == Split::Heldout).count();
        assert!((850..1150).contains(&held), "{held} of 20000");
    }

    #[test]
    fn a_tiny_corpus_still_holds_one_document_out() {
        let lots: Vec<Lot> = ["a", "b", "c"].into_iter().map(lot).collect();
        let threshold = Threshold::new(1e-9, lots.iter().map(|l| l.split).min());
        assert_eq!(lots.iter().filter(|l| threshold.split(**l) == Split::Heldout).count(), 1);
        let none = Threshold::new(0.0, lots.iter().map(|l| l.split).min());
        assert!(lots.iter().all(|l| none.split(*l) == Split::Train));
    }

    #[test]
    fn the_sample_does_not_depend_on_the_order() {
        let texts: Vec<String> = (0..500).map(|n| format!("{n}").repeat(n % 17 + 1)).collect();
        let take = |texts: &mut dyn Iterator<Item = &String>| {
            let mut sample = Sample::new(2000);
            texts.for_each(|t| sample.offer(lot(t), t));
            (sample.bytes, sample.kept.into_sorted_vec())
        };
        let (bytes, kept) = take(&mut texts.iter());
        assert_eq!((bytes, &kept), (take(&mut texts.iter().rev()).0, &take(&mut texts.iter().rev()).1));
        assert!((2000..2060).contains(&bytes), "{bytes}");
        assert_eq!(kept.iter().map(|(_, t)| t.len() as u64).sum::<u64>(), bytes);
    }
}
