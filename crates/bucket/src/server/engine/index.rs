//! A bucket's objects in key order, in memory, for lookups and listings.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::layout::Version;
use super::multipart::PartsFolder;

/// What listings and conditions need to know of an object; the rest is in its file.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) version: Version,
    pub(crate) size: u64,
    /// Without quotes.
    pub(crate) etag: Arc<str>,
    /// Keeps the parts of an assembled object on disk for as long as anybody reads it.
    pub(super) parts: Option<Arc<PartsFolder>>,
}

/// Keys in the order of their bytes, which is how S3 lists them.
#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<String, Entry>,
}

/// What a listing asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    /// Keys that hold it after the prefix are rolled up into one common prefix.
    pub(crate) delimiter: Option<String>,
    pub(crate) start: Start,
    /// At most this many keys and common prefixes together.
    pub(crate) limit: usize,
}

/// Where a listing begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    #[default]
    Beginning,
    /// After this key.
    After(String),
    /// After every key that begins so: a common prefix that was listed already.
    Past(String),
}

/// One page of a listing.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) keys: Vec<(String, Entry)>,
    pub(crate) prefixes: Vec<String>,
    /// Where the next page begins; `None` if this is the last.
    pub(crate) next: Option<Start>,
}

impl Index {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn insert(&mut self, key: String, entry: Entry) -> Option<Entry> {
        self.entries.insert(key, entry)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry> {
        self.entries.remove(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lists one page. Costs time in proportion to what it returns, however many keys a common prefix hides.
    pub(super) fn list(&self, query: &Query) -> Page {
        let mut page = Page::default();
        let mut last = Start::Beginning;
        let mut from = lower_bound(query);
        while let Some((key, entry)) =
            self.first_from(&from).filter(|(key, _)| key.starts_with(&query.prefix))
        {
            if page.keys.len() + page.prefixes.len() >= query.limit {
                page.next = Some(last);
                break;
            }
            match common_prefix(key, query) {
                Some(common) => {
                    from = after_prefix(common);
                    last = Start::Past(common.to_owned());
                    page.prefixes.push(common.to_owned());
                }
                None => {
                    from = Bound::Excluded(key.clone());
                    last = Start::After(key.clone());
                    page.keys.push((key.clone(), entry.clone()));
                }
            }
        }
        // A page of nothing could never be continued from its last item; S3 says of it that it is whole.
        page.next = page.next.filter(|next| *next != Start::Beginning);
        page
    }

    fn first_from(&self, from: &Bound<String>) -> Option<(&String, &Entry)> {
        self.entries.range::<String, _>((from.as_ref(), Bound::Unbounded)).next()
    }
}

/// The part of `key` up to and with the first delimiter after the prefix.
fn common_prefix<'k>(key: &'k str, query: &Query) -> Option<&'k str> {
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let at = key[query.prefix.len()..].find(delimiter)?;
    Some(&key[..query.prefix.len() + at + delimiter.len()])
}

fn lower_bound(query: &Query) -> Bound<String> {
    let start = match &query.start {
        Start::Beginning => Bound::Unbounded,
        Start::After(key) => Bound::Excluded(key.clone()),
        Start::Past(prefix) => after_prefix(prefix),
    };
    let begins = match &start {
        Bound::Unbounded => "",
        Bound::Included(key) | Bound::Excluded(key) => key.as_str(),
    };
    if begins < query.prefix.as_str() { Bound::Included(query.prefix.clone()) } else { start }
}

/// The first place after every key that begins with `prefix`: the prefix with its last character raised by one.
/// Characters sort as their UTF-8 bytes do.
fn after_prefix(prefix: &str) -> Bound<String> {
    let mut raised = prefix.to_owned();
    while let Some(last) = raised.pop() {
        let next = match last {
            // The surrogates are no characters.
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(other as u32 + 1),
        };
        if let Some(next) = next {
            raised.push(next);
            return Bound::Included(raised);
        }
    }
    // Nothing sorts after a run of the greatest character but longer runs of it, which no bound can name.
    Bound::Excluded("\u{10ffff}".repeat(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(keys: &[&str]) -> Index {
        let mut index = Index::default();
        for key in keys {
            let version = Version { sequence: 1, modified_ms: 1 };
            let entry = Entry { version, size: 0, etag: "e".into(), parts: None };
            index.insert((*key).to_owned(), entry);
        }
        index
    }

    /// All pages of a listing, as text; prefixes in brackets.
    fn all(index: &Index, query: &Query) -> Vec<Vec<String>> {
        let mut query = query.clone();
        let mut pages = Vec::new();
        loop {
            let page = index.list(&query);
            let keys = page.keys.into_iter().map(|(key, _)| key);
            pages.push(keys.chain(page.prefixes.into_iter().map(|prefix| format!("[{prefix}]"))).collect());
            match page.next {
                Some(next) => query.start = next,
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_neither_repeat_nor_miss() {
        let index = index(&["a", "b/1", "b/2", "b0", "c/1", "c/2/3", "d", "é/1", "é/2", "é0", "😀/x"]);
        let query = |delimiter: Option<&str>, limit| Query {
            delimiter: delimiter.map(str::to_owned),
            limit,
            ..Query::default()
        };
        for limit in 1..12 {
            let flat: Vec<_> = all(&index, &query(None, limit)).concat();
            assert_eq!(flat, ["a", "b/1", "b/2", "b0", "c/1", "c/2/3", "d", "é/1", "é/2", "é0", "😀/x"]);
            let mut rolled: Vec<_> = all(&index, &query(Some("/"), limit)).concat();
            rolled.sort();
            assert_eq!(rolled, ["[b/]", "[c/]", "[é/]", "[😀/]", "a", "b0", "d", "é0"]);
            assert!(all(&index, &query(Some("/"), limit)).iter().all(|page| page.len() <= limit));
        }
    }

    #[test]
    fn a_prefix_bounds_the_listing() {
        let index = index(&["a", "b/1", "b/2", "b0", "c"]);
        let query = Query { prefix: "b/".into(), limit: 10, ..Query::default() };
        assert_eq!(all(&index, &query), [["b/1", "b/2"]]);
        let after = Query { start: Start::After("b/1".into()), ..query.clone() };
        assert_eq!(all(&index, &after), [["b/2"]]);
        let before = Query { start: Start::After("a".into()), ..query };
        assert_eq!(all(&index, &before), [["b/1", "b/2"]]);
    }

    #[test]
    fn the_last_full_page_says_that_it_is_the_last() {
        let index = index(&["a", "b"]);
        assert!(index.list(&Query { limit: 2, ..Query::default() }).next.is_none());
        assert!(index.list(&Query { limit: 1, ..Query::default() }).next.is_some());
        assert!(index.list(&Query { limit: 0, ..Query::default() }).next.is_none());
    }

    #[test]
    fn the_greatest_characters_have_something_after_them() {
        assert_eq!(after_prefix("a/"), Bound::Included("a0".into()));
        assert_eq!(after_prefix("a\u{10ffff}"), Bound::Included("b".into()));
        assert_eq!(after_prefix("\u{d7ff}"), Bound::Included("\u{e000}".into()));
        assert!(matches!(after_prefix("\u{10ffff}"), Bound::Excluded(_)));
    }
}
