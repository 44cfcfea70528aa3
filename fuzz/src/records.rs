//! Envelopes under a known key, so that the fuzzer gets behind the signature, and what must hold of those that open.

use std::fmt::Debug;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use brigade_protocol::{Digest, Envelope, Error, Open, PeerId, Record, Signed, SigningKey, Timestamp};
use sha2::{Digest as _, Sha256};

/// The key that everything here is signed with; seeds too.
pub static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed(&[9; 32]));
/// Its public half.
pub static SIGNER: LazyLock<PeerId> = LazyLock::new(|| KEY.peer_id());

/// The envelope of `payload`, signed, written by hand.
pub fn envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    seal(payload_type, payload, payload)
}

/// An envelope that holds `payload` and the signature of `signed`.
fn seal(payload_type: &str, payload: &[u8], signed: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), signed.len()).into_bytes();
    message.extend_from_slice(signed);
    let (sig, payload) = (BASE64.encode(KEY.sign(&message)), BASE64.encode(payload));
    let keyid = *SIGNER;
    format!(
        r#"{{"payloadType":"{payload_type}","payload":"{payload}","signatures":[{{"keyid":"{keyid}","sig":"{sig}"}}]}}"#
    )
    .into_bytes()
}

/// Reads `bytes` as they are. A statement that opens is its signer's, and has no other envelope.
///
/// # Panics
/// If that does not hold.
pub fn raw<R: Record>(bytes: &[u8]) -> Option<Signed<R>> {
    let envelope = Envelope::from_bytes(bytes).ok()?;
    let written = envelope.to_bytes();
    assert_eq!(Envelope::from_bytes(&written).expect("it was written just now"), envelope);
    let signed = envelope.open::<R>().ok()?;
    // The fuzzer knows no other key: it would have forged a signature, or found a key under which anything holds.
    assert_eq!(signed.signer, *SIGNER);
    let fields: serde_json::Value = serde_json::from_slice(&written).expect("it was read just now");
    let payload = BASE64.decode(fields["payload"].as_str().expect("a text")).expect("it was opened just now");
    assert_eq!(signed.digest, digest(&payload));
    // Neither Ed25519 nor base64 leaves room for a second spelling.
    assert_eq!(written, self::envelope(R::TYPE, &payload), "a second envelope for one statement");
    Some(signed)
}

/// Reads `payload` from an envelope whose signature is right.
///
/// # Panics
/// If it is not opened to what it holds, or would be with another signer, type or payload.
pub fn signed<R: Record + Debug + PartialEq>(payload: &[u8]) -> Option<Signed<R>> {
    let bytes = envelope(R::TYPE, payload);
    let envelope = Envelope::from_bytes(&bytes).expect("it is an envelope");
    assert_eq!(envelope.to_bytes(), bytes);
    let stranger = PeerId([7; 32]);
    assert!(matches!(envelope.open_from::<R>(&stranger), Err(Error::Signer { .. })));
    let (opened, read) = (envelope.open::<R>(), serde_json::from_slice::<R>(payload));
    if R::check_version(payload).is_err() {
        // Whatever else it holds: a later program may have written it.
        assert!(matches!(opened, Err(Error::Manifest { .. })), "opened, although its version is unknown");
        return None;
    }
    let Ok(record) = read else {
        assert!(matches!(opened, Err(Error::Json { .. })), "opened, although it is no record");
        return None;
    };
    let opened = opened.expect("the signature holds and the payload is a record");
    assert_eq!(opened, Signed { record, signer: *SIGNER, digest: digest(payload) });

    // The same record, but for a byte that no reader of JSON looks at.
    let longer = [payload, b" "].concat();
    let forged = Envelope::from_bytes(&seal(R::TYPE, &longer, payload)).expect("it is an envelope");
    assert!(matches!(forged.open::<R>(), Err(Error::Signature { .. })), "a byte that is not signed");
    let other = Envelope::from_bytes(&self::envelope("text/plain", payload)).expect("it is an envelope");
    assert!(matches!(other.open::<R>(), Err(Error::PayloadType { .. })));
    Some(opened)
}

/// A record that is signed and read again is the same, and so are its bytes.
///
/// # Panics
/// If it is not.
pub fn round_trip<R: Record + Clone + Debug + PartialEq>(record: &R) {
    let (envelope, signed) = Envelope::sign(record.clone(), &KEY).expect("it was read from JSON");
    let read = Envelope::from_bytes(&envelope.to_bytes()).expect("it was written just now");
    assert_eq!(read, envelope);
    assert_eq!(read.open::<R>().expect("it was signed just now"), signed);
    assert_eq!(signed.record, *record);
}

fn digest(payload: &[u8]) -> Digest {
    Digest(Sha256::digest(payload).into())
}

/// Where the update of a receipt that counts lies.
pub const UPDATE_KEY: &str = "windows/258/update";

/// Losses of θ that a receipt that counts states.
pub const START_SEQUENCES: usize = 4;

/// The opening that a receipt must answer to count.
pub static OPEN: LazyLock<Signed<Open>> = LazyLock::new(|| {
    let open = Open {
        run: Digest([1; 32]),
        window: 258,
        epoch: 1,
        previous_close: Some(Digest([2; 32])),
        seed: Digest([4; 32]),
        opened_at: Timestamp(1000),
        deadline: Timestamp(2000),
        roster: Digest([5; 32]),
        state_root: Digest([3; 32]),
    };
    Envelope::sign(open, &KEY).expect("an opening is JSON").1
});
