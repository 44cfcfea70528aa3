//! What providers ask for requests, bytes and room.
//!
//! Prices as of 2026, in US dollars, without free allowances: <https://developers.cloudflare.com/r2/pricing/>,
//! <https://aws.amazon.com/s3/pricing/> (S3 Standard, us-east-1, to the internet).

use serde::Serialize;

use super::Traffic;

/// Price of so many bytes a month, and of those beyond.
type Tiers = &'static [(f64, f64)];

/// A provider's prices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// The provider.
    pub name: &'static str,
    /// Bytes of what it calls a GB.
    pub gb_bytes: f64,
    /// A million writes: class A.
    pub million_writes: f64,
    /// A million reads: class B.
    pub million_reads: f64,
    /// GB that are kept for a month, by tiers: GB of the tier, dollars a GB.
    pub kept: Tiers,
    /// GB that leave for the internet in a month, by tiers.
    pub out: Tiers,
}

/// Cloudflare R2.
pub const R2: Prices = Prices {
    name: "R2",
    gb_bytes: 1e9,
    million_writes: 4.50,
    million_reads: 0.36,
    kept: &[(f64::INFINITY, 0.015)],
    out: &[(f64::INFINITY, 0.0)],
};

/// Amazon S3.
pub const S3: Prices = Prices {
    name: "S3",
    gb_bytes: (1 << 30) as f64,
    million_writes: 5.00,
    million_reads: 0.40,
    kept: &[(51_200.0, 0.023), (460_800.0, 0.022), (f64::INFINITY, 0.021)],
    out: &[(10_240.0, 0.09), (40_960.0, 0.085), (102_400.0, 0.07), (f64::INFINITY, 0.05)],
};

/// A month's bill for a bucket, in dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bill {
    /// For requests.
    pub requests: f64,
    /// For what lies there.
    pub kept: f64,
    /// For what leaves.
    pub out: f64,
}

impl Bill {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.requests + self.kept + self.out
    }
}

impl Prices {
    /// The bill for `traffic` in a month, while `kept` bytes lie there.
    pub fn bill(&self, traffic: Traffic, kept: f64) -> Bill {
        Bill {
            requests: (traffic.writes * self.million_writes + traffic.reads * self.million_reads) / 1e6,
            kept: tiered(self.kept, kept / self.gb_bytes),
            out: tiered(self.out, traffic.bytes_down / self.gb_bytes),
        }
    }
}

fn tiered(tiers: Tiers, amount: f64) -> f64 {
    let mut left = amount;
    let price = |(size, price): &(f64, f64)| {
        let here = left.min(*size);
        left -= here;
        here * price
    };
    tiers.iter().map(price).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_costs_less_a_piece() {
        assert_eq!(tiered(S3.out, 1000.0), 90.0);
        assert!((tiered(S3.out, 51_200.0) - (921.6 + 3481.6)).abs() < 1e-9);
        assert_eq!(tiered(R2.out, 1e9), 0.0);
    }

    #[test]
    fn a_bill_adds_up() {
        let tb = 1000.0 * S3.gb_bytes;
        let traffic = Traffic { reads: 1e6, writes: 2e6, bytes_up: 1e15, bytes_down: tb };
        let bill = S3.bill(traffic, tb);
        assert_eq!((bill.requests, bill.kept, bill.out), (10.4, 23.0, 90.0));
        assert!((bill.total() - 123.4).abs() < 1e-9);
        assert_eq!((R2.bill(traffic, 1e12).kept, R2.bill(traffic, 1e12).out), (15.0, 0.0));
    }
}
