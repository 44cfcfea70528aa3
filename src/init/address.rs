//! Where a bucket is: what is known of it, and questions for the rest.

use brigade_bucket::{BucketAddress, Dialect};

use super::ask::Ask;
use super::dialect::{self, Recognise};

/// The answer that stands for Amazon's store.
const AMAZON: &str = "aws";

/// What is known of a bucket; what is not is asked.
pub(super) struct Known<'a> {
    /// How its name is asked for.
    pub(super) question: &'a str,
    pub(super) bucket: Option<&'a str>,
    pub(super) endpoint: Option<&'a str>,
    pub(super) region: Option<&'a str>,
    pub(super) prefix: &'a str,
    pub(super) dialect: Option<Dialect>,
    /// The run's bucket, beside which a participant's mostly lies; its operator knows its store.
    pub(super) beside: Option<&'a BucketAddress>,
}

impl Known<'_> {
    /// The whole address.
    ///
    /// # Errors
    /// When there is no answer, or it is none of a bucket.
    pub(super) fn find(&self, recognise: Recognise, ask: &mut dyn Ask) -> anyhow::Result<BucketAddress> {
        let bucket = match self.bucket {
            Some(bucket) => bucket.to_owned(),
            None => ask.text("--bucket", self.question, None)?,
        };
        let endpoint = match self.endpoint {
            Some(endpoint) => endpoint.to_owned(),
            None => {
                let same = self.beside.and_then(|beside| beside.endpoint.as_deref()).unwrap_or(AMAZON);
                let question = "its store: https://host[:port], or aws";
                ask.text_that("--endpoint", question, Some(same), &is_endpoint)?
            }
        };
        let mut address = BucketAddress {
            endpoint: endpoint_of(&endpoint),
            region: self.beside.map_or("us-east-1", |beside| &beside.region).to_owned(),
            bucket,
            prefix: self.prefix.to_owned(),
            dialect: Dialect::Aws,
        };
        address.dialect = match self.beside.filter(|beside| beside.endpoint == address.endpoint) {
            Some(beside) if self.dialect.is_none() => beside.dialect,
            _ => dialect::find(self.dialect, &address, recognise, ask)?,
        };
        address.region = match (self.region, address.dialect) {
            (Some(region), _) => region.to_owned(),
            (None, Dialect::R2) => "auto".to_owned(),
            (None, _) => ask.text("--region", "its region", Some(&address.region))?,
        };
        address.validate()?;
        Ok(address)
    }
}

/// Whether an answer is a store's address.
fn is_endpoint(answer: &str) -> Result<(), String> {
    let Some(endpoint) = endpoint_of(answer) else { return Ok(()) };
    let is_url = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
    if is_url { Ok(()) } else { Err("write http(s)://host[:port], or aws".to_owned()) }
}

/// The endpoint of an address; none is Amazon's.
fn endpoint_of(answer: &str) -> Option<String> {
    let answer = answer.trim_end_matches('/');
    (!answer.is_empty() && answer != AMAZON).then(|| answer.to_owned())
}
