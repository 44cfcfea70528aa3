//! Bucket policies: who else may read, and where they may write.

use serde_json::{Value, json};

/// What somebody who does not own the bucket may do: read all of it, list it, and write under some prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who, as an ARN, or `*` for everybody.
    pub principal: String,
    /// Prefixes under which they may also write, relative to the address's prefix, without a slash at the end.
    pub write: Vec<String>,
}

impl Grant {
    /// Reading and listing.
    pub fn read(principal: impl Into<String>) -> Self {
        Self { principal: principal.into(), write: Vec::new() }
    }

    /// Reading and listing for a user of a Ceph gateway.
    pub fn read_ceph_user(uid: &str) -> Self {
        Self::read(format!("arn:aws:iam:::user/{uid}"))
    }

    /// The same, and writing under `prefix`.
    pub fn and_write(mut self, prefix: impl Into<String>) -> Self {
        self.write.push(prefix.into());
        self
    }
}

/// The policy document. Listing goes with reading: without it, stores answer 403 for objects that do not exist, and
/// nobody could wait for one.
pub(super) fn document(bucket: &str, prefix: &str, grants: &[Grant]) -> String {
    let under = |path: &str| match prefix {
        "" => format!("arn:aws:s3:::{bucket}/{path}"),
        _ => format!("arn:aws:s3:::{bucket}/{prefix}/{path}"),
    };
    let mut statements = Vec::new();
    for Grant { principal, write } in grants {
        let mut allow = |action: &str, resources: Vec<String>| {
            let principal = if principal == "*" { json!("*") } else { json!({ "AWS": [principal] }) };
            statements.push(json!({
                "Effect": "Allow",
                "Principal": principal,
                "Action": [action],
                "Resource": resources,
            }));
        };
        allow("s3:GetObject", vec![under("*")]);
        allow("s3:ListBucket", vec![format!("arn:aws:s3:::{bucket}")]);
        if !write.is_empty() {
            allow("s3:PutObject", write.iter().map(|path| under(&format!("{path}/*"))).collect());
        }
    }
    let document: Value = json!({ "Version": "2012-10-17", "Statement": statements });
    document.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn grants_name_actions_and_places() {
        let grant = Grant::read_ceph_user("peer2").and_write("lobby");
        let value: Value = serde_json::from_str(&document("run", "a", &[grant])).unwrap();
        let statements = value["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 3);
        assert_eq!(statements[0]["Principal"]["AWS"][0], "arn:aws:iam:::user/peer2");
        assert_eq!(statements[0]["Resource"][0], "arn:aws:s3:::run/a/*");
        assert_eq!(statements[1]["Resource"][0], "arn:aws:s3:::run");
        assert_eq!(statements[2]["Action"][0], "s3:PutObject");
        assert_eq!(statements[2]["Resource"][0], "arn:aws:s3:::run/a/lobby/*");
        let public: Value = serde_json::from_str(&document("run", "", &[Grant::read("*")])).unwrap();
        assert_eq!(public["Statement"][0]["Principal"], "*");
    }
}
