//! A peer's receipt, as the aggregator reads it before it looks at the update.
#![no_main]

use brigade_fuzz::records::{self, OPEN, START_SEQUENCES, UPDATE_KEY};
use brigade_protocol::checks::Expected;
use brigade_protocol::{Exclusion, PeerId, Reason, Receipt, Record as _, Signed, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let bytes = records::envelope(Receipt::TYPE, input);
    match records::signed::<Receipt>(input) {
        Some(receipt) => check_record(&receipt, &bytes),
        None => refused(&bytes),
    }
    match records::raw::<Receipt>(input) {
        Some(receipt) => check_record(&receipt, input),
        None => refused(input),
    }
});

/// The checks of the aggregator, for a receipt written at `at` where no update may have more than `limit` bytes.
fn look(peer: PeerId, bytes: &[u8], at: u64, limit: u64) -> Result<Signed<Receipt>, Exclusion> {
    let expected = Expected {
        open: &OPEN,
        update_key: UPDATE_KEY,
        max_update_bytes: limit,
        start_sequences: START_SEQUENCES,
    };
    let judged = expected.check(peer, bytes, Timestamp(at));
    if let Err(exclusion) = &judged {
        assert_eq!(exclusion.peer, peer);
        let detail = &exclusion.detail;
        assert!(detail.chars().count() <= 240 && !detail.contains(char::is_control), "{detail:?}");
        let text = serde_json::to_vec(exclusion).expect("an exclusion is JSON");
        assert_eq!(serde_json::from_slice::<Exclusion>(&text).expect("it was written just now"), *exclusion);
    }
    judged
}

fn reason(judged: Result<Signed<Receipt>, Exclusion>) -> Option<Reason> {
    judged.err().map(|exclusion| exclusion.reason)
}

/// What cannot be opened is no receipt.
fn refused(bytes: &[u8]) {
    assert_eq!(reason(look(*records::SIGNER, bytes, 0, u64::MAX)), Some(Reason::BadReceipt));
}

/// It counts if and only if it says what this opening of the window asks for, came in time, and is its sender's.
fn check_record(receipt: &Signed<Receipt>, bytes: &[u8]) {
    let (said, open, sender) = (&receipt.record, &OPEN.record, receipt.signer);
    assert!(said.train_loss.is_finite() && said.compute_seconds.is_finite());
    // Beyond the largest f32 is infinity, which JSON has no word for; no such receipt counts.
    let are_numbers = said.start_losses.iter().all(|loss| loss.is_finite());
    if are_numbers {
        records::round_trip(said);
    }
    let (deadline, size) = (open.deadline.0, said.update.size);
    let answers = (said.run, said.window, said.open, said.start_state_root)
        == (open.run, open.window, OPEN.digest, open.state_root)
        && said.update.key == UPDATE_KEY
        && said.start_losses.len() == START_SEQUENCES
        && are_numbers;
    let judged = look(sender, bytes, deadline, size);
    assert_eq!(judged.is_ok(), answers, "{said:?}: {judged:?}");
    if let Ok(counted) = judged {
        assert_eq!(counted, *receipt);
        assert_eq!(reason(look(sender, bytes, deadline + 1, size)), Some(Reason::Late));
        if let Some(limit) = size.checked_sub(1) {
            assert_eq!(reason(look(sender, bytes, deadline, limit)), Some(Reason::TooLarge));
        }
    }
    assert_eq!(
        reason(look(PeerId([7; 32]), bytes, 0, u64::MAX)),
        Some(Reason::BadReceipt),
        "another's receipt"
    );
}
