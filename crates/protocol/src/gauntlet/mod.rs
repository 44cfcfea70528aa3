//! Gauntlet: what a window's evidence says of every peer (arXiv 2505.21684 is where the name and the loss score are from).
//!
//! | module | role |
//! | --- | --- |
//! | [`judge`] | the verdict, from what was pinned, scored and known before |
//! | `evidence` | how sure a measurement is |
//! | `opinion` | what the validators together say of an update |
//! | [`median`] | what is usual, by the word of those who are known to work |
//! | [`Gram`] | inner products of updates: norms, distances, cosines |
//! | [`robust`] | weights that a minority of hostile updates cannot bend |
//! | [`voices`] | copies, and who made them |
//! | [`rating`] | skill, from a peer's placings |
//! | [`Standing`] | skill, credit and weight of a peer, from window to window |
//! | [`Gauntlet`] | the constants of all that |

mod copies;
mod evidence;
mod gram;
mod judge;
#[cfg(test)]
mod judge_tests;
pub mod median;
mod opinion;
pub mod rating;
pub mod robust;
mod standing;
mod terms;

pub use copies::{Sent, Voice, voices};
pub use gram::Gram;
pub use judge::{Case, Judgement, judge};
pub use standing::{Standing, set_weights};
pub use terms::Gauntlet;
