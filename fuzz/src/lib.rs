//! What the fuzz targets share.
//!
//! A fuzzer that must guess a hash, a signature or the last state of an entropy coder guesses for ever. So the targets
//! put those right, as an attacker would, and hold what the crates make of the rest against a second reading of the same
//! bytes that shares no code with them.
//!
//! | module | idea |
//! | --- | --- |
//! | [`input`] | from the fuzzer's bytes to a file: raw, under fresh hashes, or built around a section |
//! | [`reference`] | a plain reader of `docs/update-format.md`, and streams put right at their end |
//! | [`check`] | what must hold of every file that is accepted |
//! | [`records`] | envelopes under a known key, and what must hold of every one that opens |

pub mod check;
pub mod input;
pub mod records;
pub mod reference;

/// Keeps rayon on the thread that the fuzzer watches; handing a few microseconds of work to another thread would be the
/// whole of a target's time.
///
/// # Panics
/// If it is called twice.
pub fn stay_on_this_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("called once, before anything uses rayon");
}
