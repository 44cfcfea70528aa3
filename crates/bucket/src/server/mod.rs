//! The embedded S3 server: one process, one folder, no account.
//!
//! It speaks enough of S3 for every peer of a run to use it as if it were a cloud provider: signed requests,
//! grants per key, atomic conditional writes, ranges, uploads in parts, checksums verified before anything is
//! replaced. HTTP, signatures and XML are those of `s3s`; where and how objects are kept is ours (`engine`).
//!
//! It speaks HTTP without TLS and path-style addresses only. Beyond one machine or one trusted network, put a proxy
//! that ends TLS before it. Lifecycle rules are kept and given back, but nothing expires by them.
//!
//! ```no_run
//! # async fn example() -> Result<(), brigade_bucket::server::ServerError> {
//! use brigade_bucket::server::{Server, ServerConfig};
//!
//! let server = Server::bind(ServerConfig::from_file("server.toml")?).await?;
//! let endpoint = format!("http://{}", server.local_addr());
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await;
//! # Ok(())
//! # }
//! ```

mod access;
mod body;
mod checksum;
mod config;
mod engine;
mod error;
mod grants;
mod handlers;
mod http;
mod keys;
mod socket;

pub use self::config::{DEFAULT_MAX_OBJECT_BYTES, KeysFile, ServerConfig};
pub use self::error::ServerError;
pub use self::grants::{Action, Grant, KeyGrant, Secret};
pub use self::http::Server;
pub use self::keys::KeyRing;
