//! Brigade: strangers train one language model together, with nothing between them but object storage.
//!
//! This is the program; what it stands on are the crates `brigade-protocol` (what peers agree on), `brigade-codec`
//! (the update file), `brigade-bucket` (object storage) and `brigade-trainer` (libtorch).
//!
//! | module | role |
//! | --- | --- |
//! | [`mod@audit`] | closed windows done again by anybody |
//! | [`mod@bench`] | measurements that a user can repeat |
//! | [`commands`] | the command line, one file a command |
//! | [`config`] | configuration files |
//! | [`mod@dashboard`] | a run as a web page |
//! | [`data`] | text in, token shards out |
//! | [`demo`] | the whole system on one machine |
//! | [`mod@doctor`] | everything a role will do, once, and what is wrong |
//! | [`evaluate`] | how well a model predicts a text |
//! | [`events`] | what a role tells |
//! | [`folder`] | a model as a Hugging Face folder |
//! | [`identity`] | the keys by which a participant is known |
//! | [`init`] | a folder to start from |
//! | [`lab`] | experiments in one process |
//! | [`mod@metrics`] | what a role tells Prometheus |
//! | [`observe`] | what anybody with read access sees of a run |
//! | [`plan`] | what a peer will need: memory, time, bytes |
//! | [`roles`] | aggregator, miner, validator |
//! | [`mod@run`] | a run as its bucket tells it |
//! | `scoring` | what a window's updates do to the loss |
//! | [`shutdown`] | the wish to stop |
//! | `spelling` | values as the records spell them |
//! | [`terminal`] | progress bars and log lines on one terminal |
//! | [`throughput`] | how much of a device goes into the model |
//! | [`version`] | which program this is |
//! | [`mod@watch`] | a run in the terminal |

pub mod audit;
pub mod bench;
pub mod commands;
pub mod config;
pub mod dashboard;
pub mod data;
#[cfg(feature = "torch")]
pub mod demo;
pub mod doctor;
#[cfg(feature = "torch")]
pub mod evaluate;
pub mod events;
pub mod folder;
pub mod identity;
pub mod init;
#[cfg(feature = "torch")]
pub mod lab;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod roles;
pub mod run;
#[cfg(feature = "torch")]
mod scoring;
pub mod shutdown;
mod spelling;
pub mod terminal;
pub mod throughput;
pub mod version;
pub mod watch;
