//! Signed records: DSSE envelopes (Dead Simple Signing Envelope, secure-systems-lab/dsse v1.0).
//!
//! The signature covers the very bytes that travel, so nobody needs to agree on a canonical JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, PeerId, SigningKey};

/// A statement that somebody signs.
pub trait Record: Serialize + DeserializeOwned {
    /// The DSSE payload type; a signature over one type never passes for another.
    const TYPE: &'static str;

    /// The largest object that may be read when this record is expected, in bytes.
    const MAX_BYTES: u64;

    /// Looks at a payload whose signature holds before its fields are read: a record that carries a version refuses a
    /// later one by its number, and not by a field that it adds.
    ///
    /// # Errors
    /// That of the record.
    fn check_version(_payload: &[u8]) -> Result<(), Error> {
        Ok(())
    }
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: PeerId,
    sig: String,
}

/// A payload with its signature, as it lies in a bucket (JSON).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: [Signature; 1],
}

/// A record whose signature has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed<R> {
    /// The statement.
    pub record: R,
    /// Who signed it.
    pub signer: PeerId,
    /// SHA-256 of the payload: the record's name in other records.
    pub digest: Digest,
}

/// DSSE's pre-authentication encoding: what is signed in the payload's stead.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {} {} ", payload_type.len(), payload_type, payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Signs `record`. Returns the envelope and the checked form that a reader would get.
    ///
    /// # Errors
    /// [`Error::Json`] when the record cannot be written as JSON.
    pub fn sign<R: Record>(record: R, key: &SigningKey) -> Result<(Self, Signed<R>), Error> {
        let payload = serde_json::to_vec(&record).map_err(|source| Error::Json { what: R::TYPE, source })?;
        let sig = BASE64.encode(key.sign(&pre_authentication(R::TYPE, &payload)));
        let signer = key.peer_id();
        let signed = Signed { record, signer, digest: Digest::of(&payload) };
        let envelope = Self {
            payload_type: R::TYPE.to_owned(),
            payload: BASE64.encode(&payload),
            signatures: [Signature { keyid: signer, sig }],
        };
        Ok((envelope, signed))
    }

    /// Reads an envelope from a bucket's bytes.
    ///
    /// # Errors
    /// [`Error::Json`] when it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|source| Error::Json { what: "envelope", source })
    }

    /// The bytes that go into a bucket.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and fixed arrays are always JSON")
    }

    /// Who claims to have signed; meaningless before [`Envelope::open`].
    pub fn claimed_signer(&self) -> PeerId {
        self.signatures[0].keyid
    }

    /// Checks type and signature, then reads the record.
    ///
    /// # Errors
    /// [`Error::PayloadType`], [`Error::Base64`], [`Error::Signature`], that of [`Record::check_version`] or
    /// [`Error::Json`]; the record is not looked at before its signature holds.
    pub fn open<R: Record>(&self) -> Result<Signed<R>, Error> {
        if self.payload_type != R::TYPE {
            let found = self.payload_type.chars().take(80).collect();
            return Err(Error::PayloadType { expected: R::TYPE, found });
        }
        let payload = BASE64.decode(&self.payload).map_err(|_| Error::Base64 { what: "payload" })?;
        let signature: [u8; 64] = BASE64
            .decode(&self.signatures[0].sig)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Error::Base64 { what: "signature" })?;
        let signer = self.claimed_signer();
        signer.verify(&pre_authentication(R::TYPE, &payload), &signature)?;
        R::check_version(&payload)?;
        let record =
            serde_json::from_slice(&payload).map_err(|source| Error::Json { what: R::TYPE, source })?;
        Ok(Signed { record, signer, digest: Digest::of(&payload) })
    }

    /// [`Envelope::open`], and the signer must be `expected`.
    ///
    /// # Errors
    /// Those of [`Envelope::open`], and [`Error::Signer`].
    pub fn open_from<R: Record>(&self, expected: &PeerId) -> Result<Signed<R>, Error> {
        if self.claimed_signer() != *expected {
            return Err(Error::Signer { what: R::TYPE, expected: *expected, found: self.claimed_signer() });
        }
        self.open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    impl Record for Note {
        const TYPE: &'static str = "application/vnd.brigade.note+json";
        const MAX_BYTES: u64 = 1024;
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Other {
        text: String,
    }

    impl Record for Other {
        const TYPE: &'static str = "application/vnd.brigade.other+json";
        const MAX_BYTES: u64 = 1024;
    }

    fn note() -> (Envelope, Signed<Note>) {
        Envelope::sign(Note { text: "pass the bucket".into() }, &SigningKey::from_seed(&[3; 32])).unwrap()
    }

    #[test]
    fn round_trip_through_bytes() {
        let (envelope, signed) = note();
        let back = Envelope::from_bytes(&envelope.to_bytes()).unwrap();
        assert_eq!(back.open::<Note>().unwrap(), signed);
    }

    #[test]
    fn dsse_test_vector() {
        assert_eq!(
            pre_authentication("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_changed_payload_type_or_signer_is_refused() {
        let (envelope, signed) = note();
        assert!(matches!(envelope.open::<Other>(), Err(Error::PayloadType { .. })));

        let mut forged = envelope.clone();
        forged.payload_type = Other::TYPE.into();
        assert!(matches!(forged.open::<Other>(), Err(Error::Signature { .. })));

        let mut forged = envelope.clone();
        forged.payload = BASE64.encode(br#"{"text":"pass the bill"}"#);
        assert!(matches!(forged.open::<Note>(), Err(Error::Signature { .. })));

        let stranger = SigningKey::from_seed(&[4; 32]).peer_id();
        assert!(matches!(envelope.open_from::<Note>(&stranger), Err(Error::Signer { .. })));
        assert_eq!(envelope.open_from::<Note>(&signed.signer).unwrap(), signed);
    }

    #[test]
    fn unknown_fields_and_extra_signatures_are_refused() {
        let (envelope, _) = note();
        let text = String::from_utf8(envelope.to_bytes()).unwrap();
        assert!(Envelope::from_bytes(text.replacen('{', r#"{"x":1,"#, 1).as_bytes()).is_err());
        let sig = serde_json::to_string(&envelope.signatures[0]).unwrap();
        let doubled = text.replacen(&sig, &format!("{sig},{sig}"), 1);
        assert!(Envelope::from_bytes(doubled.as_bytes()).is_err());
    }
}
