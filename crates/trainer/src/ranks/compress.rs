//! Each rank compresses some sections; rank 0 makes one file of them, the same as it would alone.

use std::collections::VecDeque;
use std::ops::Range;

use bincode::{Decode, Encode};
use brigade_codec::device::Assembler;
use brigade_codec::{Binding, CodeBits, CodecConfig, Layout};
use tch::{Kind, Tensor};

use super::{Group, from_bytes, to_bytes};
use crate::compress::{Input, compress_section};
use crate::model::{Units, to_vec};
use crate::{Error, Result};

/// What to compress, and how.
#[derive(Debug, Encode, Decode)]
pub(crate) struct CompressJob {
    tensors: Vec<(String, Vec<usize>)>,
    top_k: u32,
    bits: u8,
    error_feedback_decay: f32,
}

/// What rank 0 alone has: the parameters before training, and the error feedback.
pub(crate) struct Host<'h> {
    pub(crate) binding: &'h Binding,
    pub(crate) theta: &'h [Vec<f32>],
    pub(crate) e: &'h mut [Vec<f32>],
}

impl CompressJob {
    pub(crate) fn new(layout: &Layout, config: &CodecConfig) -> Self {
        let tensors = layout.tensors().iter().map(|t| (t.name().to_owned(), t.shape().to_vec())).collect();
        let CodecConfig { top_k, bits, error_feedback_decay } = *config;
        Self { tensors, top_k, bits: bits as u8, error_feedback_decay }
    }

    fn config(&self) -> Result<CodecConfig> {
        let bits = CodeBits::from_number(self.bits);
        let bits = bits.ok_or(Error::Setting { field: "bits", value: self.bits.into(), must: "1 to 4" })?;
        Ok(CodecConfig { top_k: self.top_k, bits, error_feedback_decay: self.error_feedback_decay })
    }

    /// Section s is compressed by rank s mod n. What is needed of `units` is put together on all ranks, a unit or two at a
    /// time; parameters before training and error feedback come from rank 0 (who has the `host`), and go back there, before
    /// the next n sections are begun.
    pub(crate) fn run(&self, units: &Units, mut host: Option<Host<'_>>) -> Result<Option<Vec<u8>>> {
        let (layout, config, group) = (Layout::new(self.tensors.clone())?, self.config()?, &units.group);
        let mut work = Work {
            assembler: Assembler::new(&layout, &config)?,
            gathered: Gathered { units, held: VecDeque::new() },
            layout: &layout,
            config: &config,
            group,
        };
        let sections: Vec<usize> = (0..layout.num_sections()).collect();
        for round in sections.chunks(group.world()) {
            let mut own = None;
            for (owner, &section) in round.iter().enumerate() {
                own = work.compress(section, owner, host.as_ref())?.or(own);
            }
            for (owner, &section) in round.iter().enumerate() {
                work.put_back(section, owner, &mut own, host.as_mut())?;
            }
        }
        host.map(|host| Ok(work.assembler.finish(host.binding)?)).transpose()
    }
}

/// A file in the making.
struct Work<'w> {
    layout: &'w Layout,
    config: &'w CodecConfig,
    group: &'w Group,
    assembler: Assembler,
    gathered: Gathered<'w>,
}

impl Work<'_> {
    /// Compresses `section` if this rank is its `owner`. All ranks must come here, for what is gathered.
    fn compress(&mut self, section: usize, owner: usize, host: Option<&Host<'_>>) -> Result<Option<Done>> {
        let pieces: Vec<_> = self.layout.pieces(section).collect();
        self.gathered.bring(pieces[0].0, pieces[pieces.len() - 1].0)?;
        // Before and error feedback of all pieces, one after the other.
        let mut values = host.map_or_else(Vec::new, |host| host.cut(&pieces));
        if owner > 0 {
            let bytes = self.group.hand(0, owner, || to_bytes(&Tensor::f_from_slice(&values)?))?;
            values = to_vec(&from_bytes(&bytes, Kind::Float)?)?;
        }
        if owner != self.group.rank() {
            return Ok(None);
        }
        let (mut before, mut e) = values.split_at(values.len() / 2);
        let mut inputs = Vec::with_capacity(pieces.len());
        for (tensor, elements) in &pieces {
            let (own_before, own_e);
            (own_before, before) = before.split_at(elements.len());
            (own_e, e) = e.split_at(elements.len());
            let after = self.gathered.tensor(*tensor);
            let after = after.f_narrow(0, elements.start as i64, elements.len() as i64)?;
            inputs.push(Input { before: own_before, after, e: own_e });
        }
        let (packed, left) =
            compress_section(self.layout, self.config, &mut self.assembler, section, &inputs)?;
        let left = to_bytes(&Tensor::f_cat(&left, 0)?)?;
        // All of it has been read from the device, and nothing of it handed on.
        self.group.check()?;
        Ok(Some(Done { packed, left }))
    }

    /// Brings `section` from its `owner`, who has it as `own`, to rank 0's file and error feedback.
    fn put_back(
        &mut self,
        section: usize,
        owner: usize,
        own: &mut Option<Done>,
        host: Option<&mut Host<'_>>,
    ) -> Result<()> {
        let mut done = if owner == self.group.rank() { own.take() } else { None };
        if owner > 0 {
            let bytes = self.group.hand(owner, 0, || Ok(done.take().map_or_else(Vec::new, Done::join)))?;
            done = host.as_ref().map(|_| Done::split(bytes, self.layout, section));
        }
        let (Some(host), Some(Done { packed, left })) = (host, done) else { return Ok(()) };
        self.assembler.push_packed(packed);
        let mut left = to_vec(&from_bytes(&left, Kind::Float)?)?.into_iter();
        for (tensor, elements) in self.layout.pieces(section) {
            host.e[tensor][elements].iter_mut().zip(&mut left).for_each(|(e, left)| *e = left);
        }
        Ok(())
    }
}

impl Host<'_> {
    fn cut(&self, pieces: &[(usize, Range<usize>)]) -> Vec<f32> {
        let of = |all: &[Vec<f32>]| {
            let cut = pieces.iter().flat_map(|(tensor, elements)| &all[*tensor][elements.clone()]);
            cut.copied().collect::<Vec<f32>>()
        };
        [of(self.theta), of(self.e)].concat()
    }
}

/// A section's bytes, and the error feedback that it has left.
struct Done {
    packed: Vec<u8>,
    left: Vec<u8>,
}

impl Done {
    fn join(self) -> Vec<u8> {
        [self.left, self.packed].concat()
    }

    fn split(mut bytes: Vec<u8>, layout: &Layout, section: usize) -> Self {
        let elements: usize = layout.pieces(section).map(|(_, elements)| elements.len()).sum();
        let packed = bytes.split_off(bytes.len().min(4 * elements));
        Self { packed, left: bytes }
    }
}

/// Units whose masters are put together at the moment.
struct Gathered<'u> {
    units: &'u Units,
    held: VecDeque<(usize, Vec<Tensor>)>,
}

impl Gathered<'_> {
    fn unit_of(&self, tensor: usize) -> usize {
        self.units.all.partition_point(|unit| unit.tensors.end <= tensor)
    }

    /// Holds the units of the tensors from `first` to `last`, and no others. Sections come in order, so no unit comes twice.
    fn bring(&mut self, first: usize, last: usize) -> Result<()> {
        let (first, last) = (self.unit_of(first), self.unit_of(last));
        self.held.retain(|(unit, _)| *unit >= first);
        for unit in self.held.back().map_or(first, |(unit, _)| unit + 1)..=last {
            self.held.push_back((unit, self.units.masters_of(unit)?));
        }
        Ok(())
    }

    /// One of the tensors between the first and the last.
    fn tensor(&self, tensor: usize) -> Tensor {
        let unit = self.unit_of(tensor);
        let held = self.held.iter().find(|(number, _)| *number == unit);
        let (_, masters) = held.expect("all units of a section are held while it is worked on");
        masters[tensor - self.units.all[unit].tensors.start].shallow_clone()
    }
}
