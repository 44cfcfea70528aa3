//! What anybody with read access sees of a run, from its bucket alone.
//!
//! | module | role |
//! | --- | --- |
//! | `loss` | the loss of θ, from what miners state |
//! | `newest` | which window is the newest |
//! | `plan` | which windows of a long history to read |
//! | `window` | one window as its records tell it |
//! | `target` | which run to look at, and with which keys |
//! | `observer` | following a run, a bounded number of requests at each look |

mod loss;
mod newest;
mod observer;
mod plan;
mod target;
mod window;

pub use newest::newest_window;
pub use observer::{Cost, Look, Moment, Observer, Overview};
pub use target::{Keys, Target};
pub use window::{Heard, Phase, Row, State, Summary, Window};
