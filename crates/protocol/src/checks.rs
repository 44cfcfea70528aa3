//! The fast checks: what a receipt must say to be pinned.

use crate::{
    Digest, Envelope, Error, Exclusion, Open, PeerId, Reason, Receipt, Record as _, Signed, Timestamp,
};

/// What the window expects of every receipt.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The window's open record.
    pub open: &'a Signed<Open>,
    /// Key that the update must have, relative to the peer's bucket.
    pub update_key: &'a str,
    /// Size that no honest update exceeds, in bytes.
    pub max_update_bytes: u64,
    /// Sequences whose losses the receipt says.
    pub start_sequences: usize,
}

impl Expected<'_> {
    /// Checks a receipt of `peer` that its store says was written at `received_at`.
    ///
    /// # Errors
    /// The [`Exclusion`] that goes into the cutoff.
    pub fn check(
        &self,
        peer: PeerId,
        bytes: &[u8],
        received_at: Timestamp,
    ) -> Result<Signed<Receipt>, Exclusion> {
        let bad = |error: Error| Exclusion::new(peer, Reason::BadReceipt, error);
        if bytes.len() as u64 > Receipt::MAX_BYTES {
            return Err(bad(Error::refused("the receipt is too long")));
        }
        let receipt = Envelope::from_bytes(bytes)
            .and_then(|envelope| envelope.open_from::<Receipt>(&peer))
            .map_err(bad)?;
        let (said, open) = (&receipt.record, &self.open.record);
        if said.run != open.run || said.window != open.window || said.open != self.open.digest {
            let detail =
                format!("the receipt is for window {}, not for this opening of {}", said.window, open.window);
            return Err(Exclusion::new(peer, Reason::WrongWindow, detail));
        }
        if said.start_state_root != open.state_root {
            let detail = format!(
                "training started from {}, the window from {}",
                said.start_state_root.short(),
                open.state_root.short()
            );
            return Err(Exclusion::new(peer, Reason::WrongStart, detail));
        }
        if received_at > open.deadline {
            let detail = format!("{:?} past the deadline", received_at.since(open.deadline));
            return Err(Exclusion::new(peer, Reason::Late, detail));
        }
        if said.update.size > self.max_update_bytes {
            let detail =
                format!("{} bytes; at most {} can be honest", said.update.size, self.max_update_bytes);
            return Err(Exclusion::new(peer, Reason::TooLarge, detail));
        }
        if said.update.key != self.update_key || !said.train_loss.is_finite() {
            return Err(bad(Error::refused("the receipt names another key, or a loss that is no number")));
        }
        let losses = &said.start_losses;
        if losses.len() != self.start_sequences || !losses.iter().all(|loss| loss.is_finite()) {
            return Err(bad(Error::refused("start_losses are too few, too many, or no numbers")));
        }
        Ok(receipt)
    }
}

/// Whether `found` is what was promised.
///
/// # Errors
/// [`Error::Mismatch`] with both digests.
pub fn expect_digest(what: &'static str, expected: Digest, found: Digest) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Mismatch { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FilePin, SigningKey};

    fn open() -> Signed<Open> {
        let open = Open {
            run: Digest([1; 32]),
            window: 7,
            epoch: 1,
            previous_close: None,
            seed: Digest([2; 32]),
            opened_at: Timestamp(1000),
            deadline: Timestamp(2000),
            roster: Digest([3; 32]),
            state_root: Digest([4; 32]),
        };
        Envelope::sign(open, &SigningKey::from_seed(&[1; 32])).unwrap().1
    }

    fn receipt(open: &Signed<Open>) -> Receipt {
        Receipt {
            run: open.record.run,
            window: 7,
            open: open.digest,
            start_state_root: open.record.state_root,
            update: FilePin { key: "u".into(), size: 100, sha256: Digest([5; 32]), frame: Digest([8; 32]) },
            inner_steps: 1,
            tokens: 1,
            train_loss: 1.0,
            start_losses: vec![2.5, 3.5],
            samples: Digest([6; 32]),
            compute_seconds: 1.0,
        }
    }

    fn judge(change: impl FnOnce(&mut Receipt), at: u64) -> Result<(), Reason> {
        let open = open();
        let key = SigningKey::from_seed(&[9; 32]);
        let mut said = receipt(&open);
        change(&mut said);
        let bytes = Envelope::sign(said, &key).unwrap().0.to_bytes();
        let expected = Expected { open: &open, update_key: "u", max_update_bytes: 100, start_sequences: 2 };
        expected.check(key.peer_id(), &bytes, Timestamp(at)).map(drop).map_err(|exclusion| exclusion.reason)
    }

    #[test]
    fn an_honest_receipt_passes_up_to_the_deadline() {
        assert_eq!(judge(|_| {}, 2000), Ok(()));
        assert_eq!(judge(|_| {}, 2001), Err(Reason::Late));
    }

    #[test]
    fn each_lie_has_its_reason() {
        assert_eq!(judge(|r| r.window = 6, 1500), Err(Reason::WrongWindow));
        assert_eq!(judge(|r| r.run = Digest([0; 32]), 1500), Err(Reason::WrongWindow));
        assert_eq!(judge(|r| r.open = Digest([0; 32]), 1500), Err(Reason::WrongWindow));
        assert_eq!(judge(|r| r.start_state_root = Digest([0; 32]), 1500), Err(Reason::WrongStart));
        assert_eq!(judge(|r| r.update.size = 101, 1500), Err(Reason::TooLarge));
        assert_eq!(judge(|r| r.update.key = "v".into(), 1500), Err(Reason::BadReceipt));
        assert_eq!(judge(|r| r.start_losses.truncate(1), 1500), Err(Reason::BadReceipt));
        assert_eq!(judge(|r| r.start_losses.push(1.0), 1500), Err(Reason::BadReceipt));
    }

    #[test]
    fn a_receipt_of_another_peer_is_refused() {
        let open = open();
        let bytes = Envelope::sign(receipt(&open), &SigningKey::from_seed(&[9; 32])).unwrap().0.to_bytes();
        let expected = Expected { open: &open, update_key: "u", max_update_bytes: 100, start_sequences: 2 };
        let victim = SigningKey::from_seed(&[8; 32]).peer_id();
        assert_eq!(expected.check(victim, &bytes, Timestamp(1500)).unwrap_err().reason, Reason::BadReceipt);
        assert_eq!(
            expected.check(victim, b"garbage", Timestamp(1500)).unwrap_err().reason,
            Reason::BadReceipt
        );
    }
}
