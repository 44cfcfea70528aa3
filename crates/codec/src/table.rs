//! How often each symbol of a section occurs, in 4096ths.

use crate::rans::Reason;

/// Slots of a table, as a power of two.
pub(crate) const SLOT_BITS: u32 = 12;
/// Slots of a table.
pub(crate) const SLOTS: usize = 1 << SLOT_BITS;
/// Most symbols.
pub(crate) const MAX_SYMBOLS: usize = 256;

/// Most bytes of a table: the last symbol, and two for each share.
pub(crate) fn table_bytes(symbols: usize) -> usize {
    1 + 2 * symbols
}

/// What a slot says: its symbol (8 bits), the symbol's share less one (12), the slot's place within it (12).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Slot(u32);

impl Slot {
    #[inline(always)]
    pub(crate) fn symbol(self) -> u32 {
        self.0 & 0xff
    }

    #[inline(always)]
    pub(crate) fn share(self) -> u64 {
        u64::from((self.0 >> 8) & 0xfff) + 1
    }

    #[inline(always)]
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.0 >> 20)
    }
}

/// Shares of up to 256 symbols that add up to 4096.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    starts: [u16; MAX_SYMBOLS + 1],
    /// First slot (low half) and share of each symbol.
    starts_and_shares: [u32; MAX_SYMBOLS],
    /// ⌊2^64 / share⌋ of each symbol, one less for a share of 1; 0 without a share.
    reciprocals: [u64; MAX_SYMBOLS],
    slots: Box<[Slot; SLOTS]>,
}

impl Table {
    /// The table for symbols of which symbol `s` occurs `uses[s]` times: in proportion, rounded down, but one at least
    /// for a symbol that occurs. What is missing goes to the symbol used most; what is too much is taken one by one
    /// from whichever share is largest. Of equals the lowest symbol is meant.
    pub(crate) fn fit(uses: &[u32]) -> Self {
        debug_assert!(!uses.is_empty() && uses.len() <= MAX_SYMBOLS);
        let total: u64 = uses.iter().map(|&n| u64::from(n)).sum();
        let share = |&n: &u32| match (u64::from(n) << SLOT_BITS).checked_div(total) {
            Some(share) => share.max(u64::from(n > 0)) as u16,
            None => 0,
        };
        let mut shares: Vec<u16> = uses.iter().map(share).collect();
        let given: usize = shares.iter().map(|&share| usize::from(share)).sum();
        if given <= SLOTS {
            shares[largest(uses)] += (SLOTS - given) as u16;
        }
        for _ in SLOTS..given {
            let most = largest(&shares);
            shares[most] -= 1;
        }
        Self::new(&shares)
    }

    /// `shares` add up to 4096.
    fn new(shares: &[u16]) -> Self {
        let mut starts = [SLOTS as u16; MAX_SYMBOLS + 1];
        let (mut reciprocals, mut starts_and_shares) = ([0; MAX_SYMBOLS], [0; MAX_SYMBOLS]);
        let mut slots = Vec::with_capacity(SLOTS);
        for (symbol, &share) in shares.iter().enumerate() {
            starts[symbol] = slots.len() as u16;
            starts_and_shares[symbol] = slots.len() as u32 | u32::from(share) << 16;
            reciprocals[symbol] = u64::MAX.checked_div(share.into()).unwrap_or(0);
            let slot = |place| Slot(symbol as u32 | u32::from(share - 1) << 8 | place << 20);
            slots.extend((0..u32::from(share)).map(slot));
        }
        let slots = slots.into_boxed_slice().try_into().expect("the shares add up to the number of slots");
        Self { starts, starts_and_shares, reciprocals, slots }
    }

    /// First slot and number of slots of a symbol.
    #[inline]
    pub(crate) fn share(&self, symbol: usize) -> (u64, u64) {
        let [start, end] = [self.starts[symbol], self.starts[symbol + 1]];
        (start.into(), (end - start).into())
    }

    /// `x` divided by the share of a symbol that has one, and what remains. A processor divides ten times slower than it
    /// multiplies.
    #[inline]
    pub(crate) fn divide(&self, x: u64, symbol: usize) -> (u64, u64) {
        let share = self.share(symbol).1;
        // The reciprocal is short by less than 1 + 1/share, so the product is short by less than 2, and as it is rounded
        // down the quotient is short by at most 1 where x < 2^64·share/(share + 1), by at most 2 anywhere.
        let quotient = ((u128::from(x) * u128::from(self.reciprocals[symbol])) >> 64) as u64;
        let remainder = x - quotient * share;
        let short = u64::from(remainder >= share) + u64::from(remainder >= 2 * share);
        (quotient + short, remainder - short * share)
    }

    pub(crate) fn starts_and_shares(&self) -> &[u32; MAX_SYMBOLS] {
        &self.starts_and_shares
    }

    /// First slot of each symbol; 4096 for those that there are not.
    pub(crate) fn starts(&self) -> &[u16; MAX_SYMBOLS + 1] {
        &self.starts
    }

    pub(crate) fn slots(&self) -> &[Slot; SLOTS] {
        &self.slots
    }

    /// The slot that the low 12 bits of `x` name.
    #[inline(always)]
    pub(crate) fn slot(&self, x: u32) -> Slot {
        self.slots[x as usize & (SLOTS - 1)]
    }

    /// Appends the number of the last symbol that has a share, and the shares up to it: seven bits a byte, the low ones
    /// first, the eighth bit set if another byte follows.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let share = |symbol| self.share(symbol).1 as u16;
        let last = (0..MAX_SYMBOLS).rev().find(|&symbol| share(symbol) > 0).unwrap_or(0);
        out.push(last as u8);
        for symbol in 0..=last {
            match share(symbol) {
                small @ 0..128 => out.push(small as u8),
                large => out.extend_from_slice(&[large as u8 | 0x80, (large >> 7) as u8]),
            }
        }
    }

    /// Reads a table of at most `symbols` symbols from the front of `bytes`.
    pub(crate) fn read(bytes: &mut &[u8], symbols: usize) -> Result<Self, Reason> {
        let mut next = || {
            let (&byte, rest) = bytes.split_first().ok_or("a table is truncated")?;
            *bytes = rest;
            Ok::<_, Reason>(byte)
        };
        let last = usize::from(next()?);
        if last >= symbols {
            return Err("a table has too many symbols");
        }
        let mut shares = Vec::with_capacity(last + 1);
        let mut sum = 0;
        for _ in 0..=last {
            let low = next()?;
            let high = if low >= 0x80 { u16::from(next()?) } else { 0 };
            let share = u16::from(low & 0x7f) | high << 7;
            if low >= 0x80 && share < 0x80 {
                return Err("a share is written longer than it must be");
            }
            sum += usize::from(share);
            shares.push(share);
        }
        if shares[last] == 0 {
            return Err("the last symbol of a table has no share");
        }
        // A share is below 2^15 and there are at most 256, so that the sum is what it seems.
        if sum != SLOTS {
            return Err("the shares of a table do not add up");
        }
        Ok(Self::new(&shares))
    }
}

/// Most symbols of [`FewSymbols`].
pub(crate) const FEW: usize = 16;

/// A table of so few symbols that counting those which begin before a slot is less work than fetching it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FewSymbols {
    /// First slot of each, 4096 for those that there are not.
    starts: [u16; FEW + 1],
}

impl FewSymbols {
    /// Of a table with no more than [`FEW`] symbols.
    pub(crate) fn new(table: &Table) -> Self {
        const { assert!(crate::section::SCALE_SYMBOLS <= FEW) };
        let starts = std::array::from_fn(|symbol| table.starts[symbol]);
        debug_assert_eq!(usize::from(starts[FEW]), SLOTS, "more symbols than few");
        Self { starts }
    }

    /// The symbol that has the slot which the low 12 bits of `x` name; its first slot and its share.
    #[inline(always)]
    pub(crate) fn search(&self, x: u32) -> (u32, u64, u64) {
        let slot = x as u16 & (SLOTS as u16 - 1);
        let symbol: u16 = self.starts[1..FEW].iter().map(|&start| u16::from(start <= slot)).sum();
        let [start, end] = [0, 1].map(|next| u64::from(self.starts[usize::from(symbol) + next]));
        (symbol.into(), start, end - start)
    }
}

/// Place of the largest; of equals the first.
fn largest<T: Ord + Copy>(list: &[T]) -> usize {
    (0..list.len()).rev().max_by_key(|&i| list[i]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(table: &Table) -> Vec<u64> {
        (0..MAX_SYMBOLS).map(|symbol| table.share(symbol).1).collect()
    }

    proptest! {
        #[test]
        fn division_is_exact(x in any::<u64>(), uses in prop::collection::vec(1..100_u32, 1..9)) {
            let table = Table::fit(&uses);
            for symbol in 0..uses.len() {
                let share = table.share(symbol).1;
                for x in [x, 0, 1, u64::MAX, u64::MAX - x % 9000, x >> 40, share, share - 1, x - x % share] {
                    prop_assert_eq!(table.divide(x, symbol), (x / share, x % share));
                }
            }
        }

        #[test]
        fn every_used_symbol_has_a_share_and_reading_inverts_writing(
            uses in prop_oneof![1..=16_usize, 1..=256_usize].prop_flat_map(|symbols| {
                prop::collection::vec(prop_oneof![Just(0), 1..5_u32, any::<u32>()], symbols)
            }),
        ) {
            let table = Table::fit(&uses);
            prop_assert_eq!(shares(&table).iter().sum::<u64>(), 4096);
            for (symbol, &n) in uses.iter().enumerate() {
                prop_assert!((table.share(symbol).1 > 0) == (n > 0) || uses.iter().all(|&n| n == 0));
            }
            let mut bytes = Vec::new();
            table.write(&mut bytes);
            prop_assert!(bytes.len() <= table_bytes(uses.len()));
            let mut rest = &bytes[..];
            let read = Table::read(&mut rest, uses.len()).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(shares(&read), shares(&table));
            for slot in 0..4096 {
                let found = read.slot(slot);
                let (start, share) = read.share(found.symbol() as usize);
                prop_assert_eq!((start + found.offset(), share), (u64::from(slot), found.share()));
                if uses.len() <= FEW {
                    prop_assert_eq!(FewSymbols::new(&read).search(slot), (found.symbol(), start, share));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut rest = &bytes[..];
            if let Ok(table) = Table::read(&mut rest, MAX_SYMBOLS) {
                prop_assert_eq!(shares(&table).iter().sum::<u64>(), 4096);
            }
        }
    }

    #[test]
    fn rare_symbols_take_from_the_largest() {
        let mut uses = vec![1_u32; 256];
        uses[7] = 1_000_000;
        uses[9] = 1_000_000;
        let table = Table::fit(&uses);
        assert_eq!(table.share(0).1, 1);
        assert_eq!(table.share(7).1 + table.share(9).1, 4096 - 254);
        assert!(table.share(7).1.abs_diff(table.share(9).1) <= 1);
        assert_eq!(Table::fit(&[0, 0]).share(0).1, 4096);
    }

    #[test]
    fn shares_that_do_not_add_up_are_refused() {
        assert_eq!(
            Table::read(&mut &[0, 0x80, 31][..], 2).unwrap_err(),
            "the shares of a table do not add up"
        );
        assert!(Table::read(&mut &[0, 0x80, 32][..], 2).is_ok());
        let read = |mut bytes: &[u8]| Table::read(&mut bytes, 9).map(|_| ());
        assert_eq!(read(&[1, 0x80, 32, 0]), Err("the last symbol of a table has no share"));
        assert_eq!(read(&[1, 0x81, 0, 0xff, 31]), Err("a share is written longer than it must be"));
        assert_eq!(Table::read(&mut &[2, 0][..], 2).unwrap_err(), "a table has too many symbols");
        assert_eq!(Table::read(&mut &[1, 0x80][..], 2).unwrap_err(), "a table is truncated");
    }
}
