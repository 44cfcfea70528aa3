//! Conditional requests: what must hold of the object that is there for the request to be carried out.

use super::index::Entry;
use crate::server::error::StoreError;

/// An ETag without quotes, or any at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Any,
    Etag(String),
}

impl Match {
    fn holds(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Etag(wanted) => wanted == etag,
        }
    }
}

/// The conditions of a request. Times are in seconds since 1970, as precise as HTTP dates are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) if_match: Option<Match>,
    pub(crate) if_none_match: Option<Match>,
    pub(crate) if_modified_since: Option<i64>,
    pub(crate) if_unmodified_since: Option<i64>,
}

impl Conditions {
    /// Whether a write may replace what is there.
    ///
    /// # Errors
    /// [`StoreError::Precondition`]; [`StoreError::NoSuchKey`] for `If-Match` where nothing is, as S3 answers.
    pub(super) fn check_write(&self, current: Option<&Entry>) -> Result<(), StoreError> {
        if let Some(wanted) = &self.if_match {
            let current = current.ok_or(StoreError::NoSuchKey)?;
            if !wanted.holds(&current.etag) {
                return Err(StoreError::Precondition("If-Match"));
            }
        }
        match (&self.if_none_match, current) {
            (Some(unwanted), Some(current)) if unwanted.holds(&current.etag) => {
                Err(StoreError::Precondition("If-None-Match"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a read is answered. ETags outrank dates, as RFC 9110 §13.2.2 orders them.
    ///
    /// # Errors
    /// [`StoreError::Precondition`] or [`StoreError::NotModified`].
    pub(crate) fn check_read(&self, etag: &str, modified_ms: u64) -> Result<(), StoreError> {
        let modified = (modified_ms / 1000) as i64;
        match (&self.if_match, self.if_unmodified_since) {
            (Some(wanted), _) if !wanted.holds(etag) => return Err(StoreError::Precondition("If-Match")),
            (None, Some(since)) if modified > since => {
                return Err(StoreError::Precondition("If-Unmodified-Since"));
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(unwanted), _) if unwanted.holds(etag) => Err(StoreError::NotModified),
            (None, Some(since)) if modified <= since => Err(StoreError::NotModified),
            _ => Ok(()),
        }
    }

    /// Whether a copy may be made from this source: a read, but S3 answers 412 where a read would get 304.
    pub(crate) fn check_source(&self, etag: &str, modified_ms: u64) -> Result<(), StoreError> {
        self.check_read(etag, modified_ms).map_err(|error| match error {
            StoreError::NotModified => StoreError::Precondition("x-amz-copy-source-if-*"),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Version;
    use super::*;

    fn entry(etag: &str) -> Entry {
        Entry {
            version: Version { sequence: 1, modified_ms: 5_500 },
            size: 0,
            etag: etag.into(),
            parts: None,
        }
    }

    fn etag(text: &str) -> Option<Match> {
        Some(Match::Etag(text.into()))
    }

    #[test]
    fn writes() {
        let here = entry("a");
        let create = Conditions { if_none_match: Some(Match::Any), ..Conditions::default() };
        assert!(create.check_write(None).is_ok());
        assert!(matches!(create.check_write(Some(&here)), Err(StoreError::Precondition(_))));
        let swap = Conditions { if_match: etag("a"), ..Conditions::default() };
        assert!(swap.check_write(Some(&here)).is_ok());
        assert!(matches!(swap.check_write(Some(&entry("b"))), Err(StoreError::Precondition(_))));
        assert!(matches!(swap.check_write(None), Err(StoreError::NoSuchKey)));
        assert!(Conditions::default().check_write(Some(&here)).is_ok());
    }

    #[test]
    fn reads() {
        let check = |conditions: Conditions| conditions.check_read("a", 5_500);
        let none = Conditions::default;
        assert!(check(none()).is_ok());
        assert!(check(Conditions { if_match: Some(Match::Any), ..none() }).is_ok());
        assert!(matches!(
            check(Conditions { if_match: etag("b"), ..none() }),
            Err(StoreError::Precondition(_))
        ));
        assert!(matches!(
            check(Conditions { if_none_match: etag("a"), ..none() }),
            Err(StoreError::NotModified)
        ));
        assert!(check(Conditions { if_none_match: etag("b"), ..none() }).is_ok());
        assert!(matches!(
            check(Conditions { if_modified_since: Some(5), ..none() }),
            Err(StoreError::NotModified)
        ));
        assert!(check(Conditions { if_modified_since: Some(4), ..none() }).is_ok());
        assert!(check(Conditions { if_unmodified_since: Some(5), ..none() }).is_ok());
        let late = Conditions { if_unmodified_since: Some(4), ..none() };
        assert!(matches!(check(late.clone()), Err(StoreError::Precondition(_))));
        // A matching ETag outranks the date.
        assert!(check(Conditions { if_match: etag("a"), ..late }).is_ok());
        assert!(check(Conditions { if_none_match: etag("b"), if_modified_since: Some(9), ..none() }).is_ok());
    }
}
