//! The embedded S3 server over real HTTP, through the two clients that Brigade uses and through raw requests.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod access;
mod checksums;
mod copies;
mod hostile;
mod keys;
mod lists;
mod multipart;
mod objects;
mod races;
mod restart;
