//! Who is waited for: the roster of a window follows from the one before, the lobby, and the last close.

use crate::Envelope;
use crate::{Close, Error, Join, Manifest, Member, PeerId, Record as _, Role, Roster, Signed};

/// A wish from the lobby whose signature, run, role and address have been checked.
#[derive(Clone, Debug)]
pub struct Applicant {
    envelope: Envelope,
    join: Signed<Join>,
}

impl Applicant {
    /// Checks what a stranger left in the lobby.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Signature`], … when it is no signed wish; [`Error::Refused`] when it is for
    /// another run, asks to validate without being named, or gives an address that nobody should follow.
    pub fn check(bytes: &[u8], manifest: &Signed<Manifest>) -> Result<Self, Error> {
        if bytes.len() as u64 > Join::MAX_BYTES {
            return Err(Error::refused("the wish to join is too long"));
        }
        let envelope = Envelope::from_bytes(bytes)?;
        let join = envelope.open::<Join>()?;
        if join.record.run != manifest.run() {
            return Err(Error::refused("the wish to join is for another run"));
        }
        if join.record.role == Role::Validator && manifest.record.validator(&join.signer).is_none() {
            return Err(Error::refused("the manifest names no such validator"));
        }
        join.record.bucket.validate()?;
        Ok(Self { envelope, join })
    }

    /// The wish.
    pub fn join(&self) -> &Join {
        &self.join.record
    }

    /// Who wants to join.
    pub fn peer(&self) -> PeerId {
        self.join.signer
    }
}

impl Roster {
    /// The roster of the next window.
    ///
    /// `last` is the close of the window before, from which absences are counted: a miner that missed
    /// `evict_after` windows in a row is no longer waited for, until it makes a new wish.
    pub fn next(&self, manifest: &Manifest, last: Option<&Close>, applicants: Vec<Applicant>) -> Self {
        let windows = &manifest.windows;
        let mut next = self.clone();
        for member in &mut next.members {
            if let Some(close) = last
                && member.active
                && member.role == Role::Miner
            {
                let accepted = close.accepted.iter().any(|share| share.peer == member.peer);
                member.missed = if accepted { 0 } else { member.missed.saturating_add(1) };
                member.active = member.missed < windows.evict_after;
            }
        }
        for applicant in applicants {
            next.admit(applicant, windows.max_peers as usize, windows.evict_after);
        }
        next
    }

    /// Takes a wish in. A known member keeps its absences: a wish a window would otherwise hold every window to its
    /// deadline. One that was evicted comes back on trial, and goes again with its next absence.
    fn admit(&mut self, applicant: Applicant, max_peers: usize, evict_after: u32) {
        let Applicant { envelope, join } = applicant;
        let has_room = join.record.role == Role::Validator || self.active_miners().count() < max_peers;
        let mut member = Member {
            peer: join.signer,
            role: join.record.role,
            join: envelope,
            join_digest: join.digest,
            missed: 0,
            active: true,
        };
        match self.members.binary_search_by_key(&join.signer, |member| member.peer) {
            // The lobby keeps old wishes; only a new one counts.
            Ok(at) if self.members[at].join_digest == join.digest => {}
            Ok(at) if self.members[at].active || has_room => {
                let known = &mut self.members[at];
                member.missed = if known.active { known.missed } else { evict_after.saturating_sub(1) };
                *known = member;
            }
            Err(at) if has_room && self.members.len() < Self::MAX_MEMBERS => self.members.insert(at, member),
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketAddress, Dialect, Digest, Share, SigningKey, Timestamp, fixtures};

    fn signed_manifest() -> Signed<Manifest> {
        Envelope::sign(fixtures::manifest(&[50]), &SigningKey::from_seed(&[0; 32])).unwrap().1
    }

    fn wish(seed: u8, role: Role, at: u64, manifest: &Signed<Manifest>) -> Vec<u8> {
        let bucket = BucketAddress {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: "peer".into(),
            prefix: String::new(),
            dialect: Dialect::Aws,
        };
        let join = Join {
            run: manifest.run(),
            role,
            bucket,
            sealed_credentials: "sealed".into(),
            joined_at: Timestamp(at),
        };
        Envelope::sign(join, &SigningKey::from_seed(&[seed; 32])).unwrap().0.to_bytes()
    }

    fn applicant(seed: u8, at: u64, manifest: &Signed<Manifest>) -> Applicant {
        Applicant::check(&wish(seed, Role::Miner, at, manifest), manifest).unwrap()
    }

    fn close(accepted: &[u8]) -> Close {
        let share = |seed: &u8| Share {
            peer: SigningKey::from_seed(&[*seed; 32]).peer_id(),
            weight: 0.0,
            norm: 0.0,
            coefficient: 0.0,
        };
        let zero = Digest([0; 32]);
        Close {
            run: zero,
            window: 0,
            epoch: 0,
            open: zero,
            cutoff: zero,
            verdict: zero,
            delta: None,
            accepted: accepted.iter().map(share).collect(),
            excluded: Vec::new(),
            start_state_root: zero,
            state_root: zero,
            error_feedback_root: zero,
            closed_at: Timestamp(0),
        }
    }

    #[test]
    fn the_absent_are_evicted_and_come_back_with_a_new_wish_only() {
        let manifest = signed_manifest();
        let wishes = |at| vec![applicant(1, 0, &manifest), applicant(2, at, &manifest)];
        let two = SigningKey::from_seed(&[2; 32]).peer_id();
        let mut roster = Roster::default().next(&manifest.record, None, wishes(0));
        assert_eq!(roster.active_miners().count(), 2);
        for expected in [2, 1, 1] {
            roster = roster.next(&manifest.record, Some(&close(&[1])), wishes(0));
            assert_eq!(roster.active_miners().count(), expected);
        }
        assert!(!roster.admits(&two));
        roster = roster.next(&manifest.record, Some(&close(&[1])), wishes(9));
        assert!(roster.admits(&two));
        // On trial: the next absence evicts it, its work makes it a member like any other.
        assert_eq!(roster.member(&two).unwrap().missed, 1);
        let absent = roster.next(&manifest.record, Some(&close(&[1])), wishes(9));
        assert!(!absent.admits(&two));
        let present = roster.next(&manifest.record, Some(&close(&[1, 2])), wishes(9));
        assert_eq!(present.member(&two).unwrap().missed, 0);
    }

    #[test]
    fn a_new_wish_in_every_window_does_not_hide_absences() {
        let manifest = signed_manifest();
        let mut roster = Roster::default().next(&manifest.record, None, vec![applicant(2, 0, &manifest)]);
        for at in 1..3 {
            roster = roster.next(&manifest.record, Some(&close(&[])), vec![applicant(2, at, &manifest)]);
        }
        let two = SigningKey::from_seed(&[2; 32]).peer_id();
        assert_eq!(roster.member(&two).unwrap().missed, 1, "evicted, and back on trial with its newest wish");
        let roster = roster.next(&manifest.record, Some(&close(&[])), Vec::new());
        assert!(!roster.admits(&two));
    }

    #[test]
    fn a_full_run_admits_nobody() {
        let mut manifest = signed_manifest();
        manifest.record.windows.max_peers = 1;
        let wishes = vec![applicant(1, 0, &manifest), applicant(2, 0, &manifest)];
        assert_eq!(Roster::default().next(&manifest.record, None, wishes).active_miners().count(), 1);
    }

    #[test]
    fn strangers_wishes_are_checked() {
        let manifest = signed_manifest();
        assert!(Applicant::check(b"{}", &manifest).is_err());
        assert!(Applicant::check(&wish(50, Role::Validator, 0, &manifest), &manifest).is_ok());
        assert!(Applicant::check(&wish(51, Role::Validator, 0, &manifest), &manifest).is_err());
        let mut other = manifest.clone();
        other.digest = Digest([9; 32]);
        assert!(Applicant::check(&wish(1, Role::Miner, 0, &manifest), &other).is_err());
        assert!(Applicant::check(&vec![b' '; 1 << 20], &manifest).is_err());
    }
}
