//! Marks that tell our own writes from others'.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a different 48-digit token for every write.
#[derive(Debug)]
pub(crate) struct Tokens {
    nonce: [u8; 16],
    count: AtomicU64,
}

impl Tokens {
    /// Tokens that no other process makes.
    pub(crate) fn random() -> Self {
        let mut nonce = [0; 16];
        if getrandom::fill(&mut nonce).is_err() {
            // No entropy source: process and time still keep two honest writers apart.
            nonce[..4].copy_from_slice(&std::process::id().to_le_bytes());
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            nonce[4..12].copy_from_slice(&now.as_nanos().to_le_bytes()[..8]);
        }
        Self { nonce, count: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{}{count:016x}", hex::encode(self.nonce))
    }

    /// A number in `[0, 1)` for jitter; not for secrets.
    pub(crate) fn unit(&self) -> f64 {
        // SplitMix64 (Steele, Lea, Flood 2014) over the nonce and the count.
        let [low, high] = [&self.nonce[..8], &self.nonce[8..]]
            .map(|half| half.iter().fold(0_u64, |sum, &byte| (sum << 8) | u64::from(byte)));
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut z = low ^ high.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_jitter_spreads() {
        let (one, other) = (Tokens::random(), Tokens::random());
        let first = one.next();
        assert!(first.len() == 48 && first != one.next() && first != other.next());
        let draws: Vec<f64> = (0..1000).map(|_| one.unit()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
